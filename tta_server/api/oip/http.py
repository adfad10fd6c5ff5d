"""The Open Inference Protocol v2 over HTTP."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tta_server.api.http_request import (
    query_values,
    read_body,
    read_timeout,
    request_info,
    wait_for_disconnect,
)
from tta_server.api.oip.http_codec import (
    HEADER_LENGTH,
    Envelope,
    read_bool,
    read_header_length,
    read_infer,
    read_object,
    read_raw,
    reject_query,
    write_infer,
)
from tta_server.api.oip.metadata import (
    describe_config,
    describe_metadata,
    describe_repository,
    describe_server,
    describe_statistics,
    find_model,
    load_model,
    unload_model,
)
from tta_server.api.oip.semantics import InferCommand, build_response, parse_request
from tta_server.api.requests import RequestHandler, offload_if_large
from tta_server.application import NOT_READY, Application
from tta_server.errors import NotReady
from tta_server.serving.answer import Answer
from tta_server.serving.ticket import Ticket

MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"
MIN_COMPRESSED_BYTES = 4096
"""Shorter bodies are not worth compressing."""
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}

Endpoint = Callable[[Request], Awaitable[Response]]


class ProtocolRoutes:
    """The Starlette routes of the protocol."""

    def __init__(self, application: Application, handler: RequestHandler) -> None:
        self._application = application
        self._predictor = application.predictor
        self._handler = handler

    def routes(self) -> list[Route]:
        gets: dict[str, Endpoint] = {
            "/v2": self.server,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "/v2/models/stats": self.statistics,
        }
        for path in (MODEL, VERSION):
            gets |= {
                path: self.metadata,
                f"{path}/ready": self.model_ready,
                f"{path}/config": self.config,
                f"{path}/stats": self.statistics,
            }
        posts: dict[str, Endpoint] = {
            f"{MODEL}/infer": self.infer,
            f"{VERSION}/infer": self.infer,
            "/v2/repository/index": self.index,
            "/v2/repository/models/{name}/load": self.load,
            "/v2/repository/models/{name}/unload": self.unload,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        ]

    # ---- infer ----

    async def infer(self, request: Request) -> Response:
        self._application.check_admitting()
        name, version = _model_of(request)
        find_model(self._application, name, version)
        envelope, command, tickets = await self._submit(request)
        answers = await self._handler.wait_for_answers(tickets, wait_for_disconnect(request))
        size = sum(answer.nbytes for answer in answers)
        response = await offload_if_large(size, lambda: _write_response(request, envelope, command, answers))
        self._handler.record_sent(answers, request.state.trace)
        return response

    async def _submit(self, request: Request) -> tuple[Envelope, InferCommand, list[Ticket]]:
        """The request and command without images, and a ticket for each image; only the jobs hold the images then."""
        with self._handler.byte_budget.reserve() as reservation:
            body = await read_body(request, self._predictor.limits.max_bytes, reservation)
            received = time.monotonic()
            envelope, command = await offload_if_large(len(body), lambda: self._parse(request, body))
            with command.client_option_names():
                tickets = await self._handler.submit(command, request_info(request), received)
        envelope = replace(envelope, request=replace(envelope.request, inputs=()))
        return envelope, replace(command, images=(), model=tickets[0].model), tickets

    def _parse(self, request: Request, body: bytes) -> tuple[Envelope, InferCommand]:
        length = read_header_length(request.headers.get(HEADER_LENGTH), len(body))
        name, version = _model_of(request)
        if length == 0:
            envelope = read_raw(body, name, version, request.headers.get("accept", ""), query_values(request))
        else:
            reject_query(request.query_params)
            envelope = read_infer(body, length, name, version)
        return envelope, parse_request(self._application, envelope.request, read_timeout(request))

    # ---- server and models ----

    async def server(self, request: Request) -> Response:
        return JSONResponse(describe_server(self._application))

    async def live(self, request: Request) -> Response:
        if reason := self._application.health.fatal:
            raise NotReady(reason)
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        if not self._application.ready:
            raise NotReady(NOT_READY)
        return JSONResponse({"ready": True})

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(describe_metadata(find_model(self._application, *_model_of(request))))

    async def model_ready(self, request: Request) -> Response:
        model = find_model(self._application, *_model_of(request))
        if not self._application.is_ready(model.name):
            raise NotReady(f"{model.name} is not ready")
        return JSONResponse({"name": model.name, "ready": True})

    async def config(self, request: Request) -> Response:
        model = find_model(self._application, *_model_of(request))
        return JSONResponse(describe_config(model, self._application))

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(describe_statistics(self._application, *_model_of(request)))

    # ---- model repository ----

    async def index(self, request: Request) -> Response:
        ready = read_bool(await self._read_json(request), "ready")
        return JSONResponse(await asyncio.to_thread(describe_repository, self._application, ready))

    async def load(self, request: Request) -> Response:
        await self._read_json(request)
        await asyncio.to_thread(load_model, self._application, request.path_params["name"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._read_json(request)
        await asyncio.to_thread(unload_model, self._application, request.path_params["name"])
        return Response()

    async def _read_json(self, request: Request) -> dict[str, Any]:
        """The body's JSON object; an empty body is an empty object."""
        with self._handler.byte_budget.reserve() as reservation:
            return read_object(await read_body(request, 10_000, reservation) or b"{}")


def _model_of(request: Request) -> tuple[str, str]:
    """Name and version from the path, empty if it has none."""
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _write_response(request: Request, envelope: Envelope, command: InferCommand, answers: list[Answer]) -> Response:
    tensors, parameters = build_response(command, answers)
    body, head = write_infer(envelope, command.model.version, tensors, parameters)
    headers = {"Vary": "Accept-Encoding"} | ({} if head is None else {HEADER_LENGTH: str(head)})
    encoding = _encoding(request) if len(body) >= MIN_COMPRESSED_BYTES else ""
    if encoding:
        headers["Content-Encoding"] = encoding
        body = COMPRESSORS[encoding](body)
    return Response(
        body, headers=headers, media_type="application/json" if head is None else "application/octet-stream"
    )


def _encoding(request: Request) -> str:
    """The first supported encoding that the client accepts, empty for none."""
    accepted = (entry.lower().replace(" ", "") for entry in request.headers.get("accept-encoding", "").split(","))
    for name, _, quality in (entry.partition(";q=") for entry in accepted):
        if name in COMPRESSORS and (not quality or quality.strip("0.")):
            return name
    return ""
