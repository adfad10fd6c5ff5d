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

from tta_server.api.http.body import read_body
from tta_server.api.http.query import query_values, read_timeout
from tta_server.api.http.sse import disconnected
from tta_server.api.oip.http_codec import (
    HEADER_LENGTH,
    Envelope,
    read_header_length,
    read_infer,
    read_object,
    read_raw,
    read_switch,
    refuse_query,
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
from tta_server.api.oip.semantics import PredictCommand, build_response, parse_request
from tta_server.api.requests import RequestHandler, offload_if_large
from tta_server.application import Application
from tta_server.errors import NotReady
from tta_server.serving.answer import Answer
from tta_server.serving.predictor import Ticket

MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"
COMPRESSED_FROM = 4096
"""Bytes of a body that it is worth to compress, for clients that take that."""
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}

Handler = Callable[[Request], Awaitable[Response]]


class ProtocolRoutes:
    """Handlers over one application."""

    def __init__(self, application: Application, reception: RequestHandler) -> None:
        self._application = application
        self._predictor = application.predictor
        self._reception = reception

    def routes(self) -> list[Route]:
        gets: dict[str, Handler] = {
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
        posts: dict[str, Handler] = {
            f"{MODEL}/infer": self.infer,
            f"{VERSION}/infer": self.infer,
            "/v2/repository/index": self.index,
            "/v2/repository/models/{name}/load": self.load,
            "/v2/repository/models/{name}/unload": self.unload,
        }
        return [
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
        ]

    # ---- infer ----

    async def infer(self, request: Request) -> Response:
        self._application.check_ready()
        name, version = _model_of(request)
        find_model(self._application, name, version)
        envelope, question, tickets = await self._admitted(request)
        answers = await self._reception.answers(tickets, disconnected(request))
        size = sum(answer.nbytes for answer in answers)
        response = await offload_if_large(size, lambda: _written(request, envelope, question, answers))
        self._reception.handed_out(answers)
        return response

    async def _admitted(self, request: Request) -> tuple[Envelope, PredictCommand, list[Ticket]]:
        """What was asked, and a ticket for each image; the images themselves are the tickets' from then on."""
        with self._reception.intake.visit() as held:
            body = await read_body(request, self._predictor.limits.max_bytes, held)
            received = time.monotonic()
            envelope, question = await offload_if_large(len(body), lambda: self._understood(request, body))
            with question.in_its_names():
                tickets = await self._reception.submit(question, request.state.request_id, received)
        envelope = replace(envelope, request=replace(envelope.request, inputs=()))
        return envelope, replace(question, images=(), model=tickets[0].model), tickets

    def _understood(self, request: Request, body: bytes) -> tuple[Envelope, PredictCommand]:
        length = read_header_length(request.headers.get(HEADER_LENGTH), len(body))
        name, version = _model_of(request)
        if length == 0:
            envelope = read_raw(body, name, version, request.headers.get("accept", ""), query_values(request))
        else:
            refuse_query(request.query_params)
            envelope = read_infer(body, length, name, version)
        return envelope, parse_request(self._application, envelope.request, read_timeout(request))

    # ---- what there is ----

    async def server(self, request: Request) -> Response:
        return JSONResponse(describe_server(self._application))

    async def live(self, request: Request) -> Response:
        if reason := self._application.health.fatal:
            raise NotReady(reason)
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        self._application.check_ready()
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

    # ---- the repository ----

    async def index(self, request: Request) -> Response:
        told = await self._told(request)
        ready = read_switch(told, "ready")
        return JSONResponse(await asyncio.to_thread(describe_repository, self._application, ready))

    async def load(self, request: Request) -> Response:
        await self._told(request)
        await asyncio.to_thread(load_model, self._application, request.path_params["name"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._told(request)
        await asyncio.to_thread(unload_model, self._application, request.path_params["name"])
        return Response()

    async def _told(self, request: Request) -> dict[str, Any]:
        """A body of JSON, which may be empty."""
        with self._reception.intake.visit() as held:
            return read_object(await read_body(request, 10_000, held) or b"{}")


def _model_of(request: Request) -> tuple[str, str]:
    """Name and version, empty where the path has none."""
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _written(request: Request, envelope: Envelope, question: PredictCommand, answers: list[Answer]) -> Response:
    tensors, parameters = build_response(question, answers)
    body, head = write_infer(envelope, question.model.version, tensors, parameters)
    headers = {"Vary": "Accept-Encoding"} | ({} if head is None else {HEADER_LENGTH: str(head)})
    encoding = _encoding(request) if len(body) >= COMPRESSED_FROM else ""
    if encoding:
        headers["Content-Encoding"] = encoding
        body = COMPRESSORS[encoding](body)
    return Response(
        body, headers=headers, media_type="application/json" if head is None else "application/octet-stream"
    )


def _encoding(request: Request) -> str:
    """The first of what the client takes that we have, empty for none."""
    offers = (offer.lower().replace(" ", "") for offer in request.headers.get("accept-encoding", "").split(","))
    taken = (
        name for name, _, quality in (offer.partition(";q=") for offer in offers) if not quality or quality.strip("0.")
    )
    return next((name for name in taken if name in COMPRESSORS), "")
