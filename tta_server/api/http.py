"""The HTTP door: translates requests to the predictor and answers back, and nothing else."""

import asyncio
import json
import logging
import re
import time
import uuid
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server import __version__
from tta_server.answer import Answer
from tta_server.api.body import read_image
from tta_server.api.describe import describe_model, describe_policies, describe_quote
from tta_server.api.docs import DESCRIPTION, PREDICT_DOCS, QUOTE_DOCS, error_docs
from tta_server.api.errors import STATUS, error_response, plain_response
from tta_server.api.query import read_query, read_quote
from tta_server.api.stream import Progress, disconnected, stream
from tta_server.app import Application
from tta_server.costs import Track
from tta_server.errors import Cancelled, InvalidInput, NotReady, TTAError
from tta_server.predictor import Caller, Ticket
from tta_server.work import DRAWING

log = logging.getLogger("tta_server.requests")

PREDICT = "/v1/models/{name}/predict"
QUOTE = "/v1/models/{name}/quote"
HANDING_OUT = 0.0005
"""Seconds from an answer made to its bytes written, until enough has been seen."""
RESERVE = 3
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestIds:
    """Every answer carries the client's own `X-Request-Id` if it is sane, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        await self._app(scope, receive, stamped)


def request_id(request: Request) -> str:
    return str(request.state.request_id)


def create_app(application: Application) -> FastAPI:
    app = FastAPIOffline(redoc_url=None, title="tta-server", version=__version__, description=DESCRIPTION)
    app.add_middleware(RequestIds)
    door = Door(application)
    app.add_exception_handler(TTAError, door.failed)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, door.refused)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, door.broken)
    app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    # Before the other routes, and without FastAPI's parsing, which took a quarter of the door's time.
    app.router.routes.insert(0, Route(PREDICT, door.predict, methods=["POST"]))
    app.router.routes.insert(1, Route(QUOTE, door.quote, methods=["GET"]))
    app.add_api_route("/v1/models", door.models, tags=["models"], summary="Every model in short")
    app.add_api_route(
        "/v1/models/{name}", door.model, tags=["models"], summary="One model whole", responses=error_docs(404)
    )
    app.add_api_route("/v1/policies", describe_policies, tags=["models"], summary="Presets and primitives")
    app.add_api_route("/livez", door.live, tags=["health"], summary="Whether the process lives")
    app.add_api_route(
        "/readyz", door.ready, tags=["health"], summary="Whether every model is warmed", responses=error_docs(503)
    )
    app.add_api_route("/metrics", door.metrics, tags=["health"], summary="Prometheus metrics", response_class=Response)
    schema = app.openapi()
    schema["paths"] = {PREDICT: {"post": PREDICT_DOCS}, QUOTE: {"get": QUOTE_DOCS}} | schema["paths"]
    return app


class Door:
    """Handlers over one application."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._predictor = application.predictor
        self._handing_out = Track(HANDING_OUT)

    async def predict(self, request: Request) -> Response:
        self._check_ready()
        name = request.path_params["name"]
        model = self._predictor.model(name)
        options = read_query(request)
        accept = request.headers.get("accept", "")
        wants_picture = "image/png" in accept
        if wants_picture and not model.task.has_picture:
            painted = " and include=drawing" if DRAWING in model.task.includes else ""
            raise InvalidInput(f"{model.task.name} has no picture to answer with; accept application/json{painted}")
        image = await read_image(request, self._predictor.limits.max_bytes)
        progress = Progress() if "text/event-stream" in accept else None
        caller = Caller(request_id(request), progress, self._reserve())
        submit = partial(self._predictor.submit, name, image, options, caller)
        # A JPEG's header takes microseconds; others may hide compressed text or frames in theirs.
        ticket = submit() if image.startswith(b"\xff\xd8") else await asyncio.to_thread(submit)
        if progress is not None:
            leave = partial(self._predictor.cancel, ticket)
            return await stream(request, ticket, progress, leave, _log_answer, self._note)
        answer = await self._answered(request, ticket)
        response = _picture(answer) if wants_picture else JSONResponse(answer.to_dict(), headers=_headers(answer))
        _log_answer(answer)
        self._handed_out(answer)
        return response

    def _reserve(self) -> float:
        """Seconds from an answer made to its bytes written, as many before the request was seen, and as many for what
        is seen on neither way."""
        return RESERVE * self._handing_out.estimate(time.monotonic())

    def _handed_out(self, answer: Answer) -> None:
        now = time.monotonic()
        self._handing_out.observe(now - answer.made_at, now)

    async def _answered(self, request: Request, ticket: Ticket) -> Answer:
        """The answer, unless the client leaves first: then its views make room."""
        answer = asyncio.wrap_future(ticket.future)
        watch = asyncio.ensure_future(disconnected(request))
        watch.add_done_callback(lambda _: answer.cancel())
        try:
            return await answer
        except asyncio.CancelledError:
            asyncio.get_running_loop().run_in_executor(None, self._predictor.cancel, ticket)
            if watch.done():
                raise Cancelled("the client has left") from None
            raise
        finally:
            watch.cancel()

    def _check_ready(self) -> None:
        if not self._application.ready:
            raise NotReady("the server is not ready: models are being warmed, or it is shutting down")

    async def models(self) -> dict[str, Any]:
        keys = ("name", "version", "task", "description")
        models = [describe_model(model) for model in self._predictor.models.values()]
        return {"models": [{key: model[key] for key in keys} for model in models]}

    async def model(self, name: str) -> dict[str, Any]:
        return describe_model(self._predictor.model(name))

    async def quote(self, request: Request) -> Response:
        self._check_ready()
        name = request.path_params["name"]
        self._predictor.model(name)
        size, options = read_quote(request)
        caller = Caller(request_id(request), reserve=self._reserve())
        return JSONResponse(describe_quote(size, *self._predictor.quote(name, size, options, caller)))

    async def live(self) -> dict[str, str]:
        if stuck := self._application.health.stuck_slots:
            raise NotReady(f"slots {', '.join(map(str, stuck))} are stuck; the server is about to end")
        return {"status": "alive"}

    async def ready(self) -> dict[str, str]:
        self._check_ready()
        if ill := self._application.health.ill:
            raise NotReady(f"{', '.join(sorted(ill))} fails time after time; it is tried again every second")
        return {"status": "ready"}

    async def metrics(self) -> Response:
        return Response(self._application.metrics.text(), media_type="text/plain; version=0.0.4")

    # ---- what goes wrong ----

    async def failed(self, request: Request, error: TTAError) -> JSONResponse:
        self._note(request, error)
        return error_response(error)

    def _note(self, request: Request, error: TTAError) -> None:
        name = request.path_params.get("name", "")
        known = name if name in self._predictor.models else ""
        self._application.metrics.error(known, error.code)
        _log_error(request, STATUS[error.code], error.code, str(error))

    async def refused(self, request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path[:128]} is not known here; see /docs"
        _log_error(request, error.status_code, "refused", sentence)
        response = plain_response(error.status_code, sentence)
        response.headers.update(error.headers or {})
        return response

    async def broken(self, request: Request, error: Exception) -> JSONResponse:
        sentence = "something went wrong here that is not your fault; the log has it under this request id"
        _log_error(request, 500, "internal", repr(error))
        response = plain_response(500, sentence)
        response.headers["X-Request-Id"] = request_id(request)  # this one is answered outside RequestIds
        return response


def _headers(answer: Answer) -> dict[str, str]:
    receipt = answer.receipt
    timing = ", ".join(f"{stage};dur={ms}" for stage, ms in receipt.stages_ms.items())
    return {"Server-Timing": f"{timing}, total;dur={receipt.elapsed_ms}"}


def _picture(answer: Answer) -> Response:
    receipt = answer.receipt
    headers = {"TTA-Views": str(len(receipt.views)), "TTA-Stop-Reason": str(receipt.stop_reason)}
    return Response(answer.picture, media_type="image/png", headers=_headers(answer) | headers)


def _log_answer(answer: Answer) -> None:
    receipt = answer.receipt
    _log(
        event="answer",
        request_id=receipt.request_id,
        model=answer.model,
        views=len(receipt.views),
        planned=receipt.planned,
        stop_reason=receipt.stop_reason,
        budget_ms=receipt.budget_ms,
        elapsed_ms=receipt.elapsed_ms,
        stages_ms=receipt.stages_ms,
    )


def _log_error(request: Request, status: int, code: str, sentence: str) -> None:
    _log(
        event="error",
        request_id=request_id(request),
        path=request.url.path[:128],
        status=status,
        code=code,
        error=sentence,
    )


def _log(**entry: Any) -> None:
    """One line of JSON, the time first."""
    log.info(json.dumps({"time": round(time.time(), 3), **entry}))
