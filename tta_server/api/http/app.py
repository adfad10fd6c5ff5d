"""The HTTP application: its own routes, those of the Open Inference Protocol, middleware and documentation."""

from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tta_server import __version__
from tta_server.api.auth import Keys
from tta_server.api.describe import describe_failed, describe_model, describe_policies
from tta_server.api.http.errors import ErrorHandlers
from tta_server.api.http.middleware import AuthMiddleware, CrossOrigin, InternalErrors, RequestIds
from tta_server.api.http.openapi import DESCRIPTION, PREDICT_DOCS, QUOTE_DOCS
from tta_server.api.http.predict import PREDICT, QUOTE, PredictRoutes, answers_digest
from tta_server.api.http.spans import RequestSpans
from tta_server.api.oip.http import ProtocolRoutes
from tta_server.api.oip.openapi import PROTOCOL_DOCS
from tta_server.api.openapi import error_docs
from tta_server.api.requests import RequestHandler
from tta_server.application import NOT_READY, Application
from tta_server.errors import NotReady, TTAError
from tta_server.repository.model import Model


def create_app(application: Application, handler: RequestHandler | None = None, keys: Keys | None = None) -> FastAPI:
    """With `keys`, only requests that carry one of them are served."""
    app = FastAPIOffline(redoc_url=None, title="tta-server", version=__version__, description=DESCRIPTION)
    handler = handler or RequestHandler(application)
    errors = ErrorHandlers(handler)
    app.add_exception_handler(TTAError, errors.respond)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, errors.respond_unrouted)  # type: ignore[arg-type]
    _add_middleware(app, handler, keys, application)
    _add_routes(app, Routes(application))
    app.router.routes[:0] = PredictRoutes(application, handler, errors).routes()  # the most requested come first
    app.router.routes.extend(ProtocolRoutes(application, handler).routes())
    _add_docs(app, keys is not None)
    _add_head(app)
    return app


class Routes:
    """Models, policies, health and metrics."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._predictor = application.predictor

    async def models(self) -> dict[str, Any]:
        keys = ("name", "version", "task", "description", "state", "reason")
        failures = self._application.health.load_failures
        models = [self._describe(model) for model in list(self._predictor.models.values())]
        models += [describe_failed(name, failure.public) for name, failure in failures.items()]
        return {"models": [{key: model[key] for key in keys} for model in models]}

    async def model(self, name: str) -> dict[str, Any]:
        if failure := self._application.health.load_failures.get(name):
            return describe_failed(name, failure.public)
        return self._describe(self._predictor.model(name))

    def _describe(self, model: Model) -> dict[str, Any]:
        """With its `digest`, its `state`, and the `reason` if its requests are refused."""
        about = describe_model(model) | {"digest": answers_digest(model)}
        if self._application.is_ready(model.name):
            return about | {"state": "ready", "reason": ""}
        reason = self._application.health.problems().get(model.name, NOT_READY)
        return about | {"state": "not_ready", "reason": reason}

    async def live(self) -> dict[str, str]:
        if reason := self._application.health.fatal:
            raise NotReady(reason)
        return {"status": "alive"}

    async def ready(self) -> dict[str, Any]:
        if not self._application.ready:
            raise NotReady(NOT_READY)
        problems = self._application.health.problems()
        if not self._application.is_serving:
            raise NotReady("; ".join(problems.values()) or "no model is loaded")
        return {"status": "ready", "not_ready": [{"name": name, "reason": why} for name, why in problems.items()]}

    async def metrics(self, request: Request) -> Response:
        body, media_type = self._application.metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=media_type)


def _add_middleware(app: FastAPI, handler: RequestHandler, keys: Keys | None, application: Application) -> None:
    """The last one added is the outermost."""
    if keys is not None:
        app.add_middleware(AuthMiddleware, keys=keys, handler=handler)
    app.add_middleware(InternalErrors, handler=handler)
    if origins := application.settings.cors_origin:
        app.add_middleware(CrossOrigin, origins=origins)
    if application.tracer.is_on:
        app.add_middleware(RequestSpans, tracer=application.tracer)
    app.add_middleware(RequestIds)


def _add_routes(app: FastAPI, routes: Routes) -> None:
    app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    app.add_api_route("/v1/models", routes.models, tags=["models"], summary="List the models")
    app.add_api_route(
        "/v1/models/{name}", routes.model, tags=["models"], summary="Describe a model", responses=error_docs(404)
    )
    app.add_api_route(
        "/v1/policies", describe_policies, tags=["models"], summary="List presets and primitives of views"
    )
    app.add_api_route("/livez", routes.live, tags=["health"], summary="Liveness: whether the process works")
    app.add_api_route(
        "/readyz",
        routes.ready,
        tags=["health"],
        summary="Readiness: whether a model serves; lists those that do not",
        responses=error_docs(503),
    )
    app.add_api_route(
        "/metrics", routes.metrics, tags=["health"], summary="Prometheus metrics", response_class=Response
    )


def _add_docs(app: FastAPI, needs_key: bool) -> None:
    """Add the routes that FastAPI does not know to the OpenAPI document."""
    schema = app.openapi()
    schema["paths"] = {PREDICT: {"post": PREDICT_DOCS}, QUOTE: {"get": QUOTE_DOCS}} | schema["paths"] | PROTOCOL_DOCS
    if needs_key:
        schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]


def _add_head(app: FastAPI) -> None:
    """Serve HEAD on every GET route; the server leaves the body out."""
    for route in app.router.routes:
        if isinstance(route, Route) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
