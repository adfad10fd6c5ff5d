"""The HTTP door: translates requests to the predictor and answers back, and nothing else."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tta_server import __version__
from tta_server.api.auth import Keys
from tta_server.api.describe import describe_model, describe_policies
from tta_server.api.errors import STATUS, error_response, plain_response
from tta_server.api.http.body import read_upload
from tta_server.api.http.middleware import AuthMiddleware, CrossOrigin, InternalErrors, RequestIds
from tta_server.api.http.openapi import DESCRIPTION, PREDICT_DOCS, QUOTE_DOCS, error_docs
from tta_server.api.http.query import read_query, read_quote
from tta_server.api.http.sse import Progress, disconnected, stream
from tta_server.api.oip.http import ProtocolRoutes
from tta_server.api.oip.openapi import PROTOCOL_DOCS
from tta_server.api.oip.semantics import PredictCommand
from tta_server.api.requests import RequestHandler, RequestInfo
from tta_server.application import Application
from tta_server.errors import InvalidInput, NotReady, TTAError
from tta_server.serving.answer import Answer
from tta_server.serving.health import unhealthy_message
from tta_server.tasks import ResponseFormat
from tta_server.tasks.render.rendering import DRAWING

PREDICT = "/v1/models/{name}/predict"
QUOTE = "/v1/models/{name}/quote"


def request_id(request: Request) -> str:
    return str(request.state.request_id)


def request_info(request: Request) -> RequestInfo:
    return RequestInfo(request_id(request), request.url.path, request.path_params.get("name", ""))


def create_app(application: Application, reception: RequestHandler | None = None, keys: Keys | None = None) -> FastAPI:
    """Where `keys` are given, only who has one is let in."""
    app = FastAPIOffline(redoc_url=None, title="tta-server", version=__version__, description=DESCRIPTION)
    reception = reception or RequestHandler(application)
    if keys is not None:
        app.add_middleware(AuthMiddleware, keys=keys, reception=reception)
    app.add_middleware(InternalErrors, reception=reception)
    if origins := application.settings.cors_origin:
        app.add_middleware(CrossOrigin, origins=origins)
    app.add_middleware(RequestIds)  # the last one added is the first to be asked
    door = Routes(application, reception)
    app.add_exception_handler(TTAError, door.failed)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, door.refused)  # type: ignore[arg-type]
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
    protocol = ProtocolRoutes(application, reception)
    app.router.routes.extend(protocol.routes())
    schema = app.openapi()
    schema["paths"] = {PREDICT: {"post": PREDICT_DOCS}, QUOTE: {"get": QUOTE_DOCS}} | schema["paths"] | PROTOCOL_DOCS
    if keys is not None:
        schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
    answer_head(app)
    return app


def answer_head(app: FastAPI) -> None:
    """HEAD wherever GET is answered: the server sends the head alone."""
    for route in app.router.routes:
        if isinstance(route, Route) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")


class Routes:
    """Handlers over one application."""

    def __init__(self, application: Application, reception: RequestHandler) -> None:
        self._application = application
        self._predictor = application.predictor
        self._reception = reception

    async def predict(self, request: Request) -> Response:
        self._application.check_ready()
        name = request.path_params["name"]
        model = self._predictor.model(name)
        options = read_query(request)
        accept = request.headers.get("accept", "")
        wants_picture = "image/png" in accept
        if wants_picture and not model.task.has_picture:
            painted = " and include=drawing" if DRAWING in model.task.includes else ""
            raise InvalidInput(f"{model.task.name} has no picture to answer with; accept application/json{painted}")
        progress = Progress() if "text/event-stream" in accept else None
        with self._reception.intake.visit() as held:
            upload = await read_upload(request, self._predictor.limits.max_bytes, held)
            received = time.monotonic()
            if upload.options:
                options = read_query(request, upload.options)
            if wants_picture and progress is None:
                options = replace(options, format=ResponseFormat.PNG)
            asked = PredictCommand(model, [upload.image], options)
            tickets = await self._reception.submit(asked, request_id(request), received, progress)
        del upload, asked  # the ticket's, until a slot has decoded it
        if progress is not None:
            leave = partial(self._predictor.cancel, tickets[0])
            return await stream(request, tickets[0], progress, leave, self._reception.answered, self._note)
        (answer,) = await self._reception.answers(tickets, disconnected(request))
        response = _picture(answer) if wants_picture else JSONResponse(answer.to_dict(), headers=timing(answer))
        self._reception.handed_out([answer])
        return response

    async def models(self) -> dict[str, Any]:
        keys = ("name", "version", "task", "description")
        models = [describe_model(model) for model in list(self._predictor.models.values())]
        return {"models": [{key: model[key] for key in keys} for model in models]}

    async def model(self, name: str) -> dict[str, Any]:
        return describe_model(self._predictor.model(name))

    async def quote(self, request: Request) -> Response:
        self._application.check_ready()
        name = request.path_params["name"]
        self._predictor.model(name)
        size, options = read_quote(request)
        return JSONResponse(await self._reception.quote(name, size, options, request_id(request)))

    async def live(self) -> dict[str, str]:
        if reason := self._application.health.fatal:
            raise NotReady(reason)
        return {"status": "alive"}

    async def ready(self) -> dict[str, str]:
        self._application.check_ready()
        if ill := self._application.health.unhealthy:
            raise NotReady("; ".join(map(unhealthy_message, sorted(ill))))
        return {"status": "ready"}

    async def metrics(self) -> Response:
        return Response(self._application.metrics.text(), media_type="text/plain; version=0.0.4")

    # ---- what goes wrong ----

    async def failed(self, request: Request, error: TTAError) -> JSONResponse:
        self._note(request, error)
        return error_response(error)

    def _note(self, request: Request, error: TTAError) -> None:
        self._reception.failed(request_info(request), error, STATUS[error.code])

    async def refused(self, request: Request, error: HTTPException) -> Response:
        if request.method == "OPTIONS" and error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return Response(
                status_code=204, headers={"Allow": ", ".join(sorted({*allowed.split(", "), "OPTIONS"} - {""}))}
            )
        known = "not for" if error.status_code == 405 else "not known here:"
        sentence = f"{request.method} is {known} {request.url.path[:128]}; see /docs"
        self._reception.refused(request_info(request), error.status_code, "refused", sentence)
        response = plain_response(error.status_code, sentence)
        response.headers.update(error.headers or {})
        return response


def timing(answer: Answer) -> dict[str, str]:
    receipt = answer.receipt
    timing = ", ".join(f"{stage};dur={ms}" for stage, ms in receipt.stages_ms.items())
    return {"Server-Timing": f"{timing}, total;dur={receipt.elapsed_ms}"}


def _picture(answer: Answer) -> Response:
    receipt = answer.receipt
    headers = {"TTA-Views": str(len(receipt.views)), "TTA-Stop-Reason": str(receipt.stop_reason)}
    return Response(answer.picture, media_type="image/png", headers=timing(answer) | headers)
