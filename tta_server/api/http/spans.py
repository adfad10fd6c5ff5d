"""The span of an HTTP request, named by the semantic conventions of OpenTelemetry."""

from collections.abc import Mapping

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.auth import OPEN_PATHS
from tta_server.api.spans import TRACERESPONSE, traceresponse
from tta_server.telemetry.tracing import RequestTrace, Tracer

UNTRACED_PATHS = OPEN_PATHS | {"/metrics"}
"""What orchestrators and Prometheus ask for all the time."""
METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))

RawHeaders = Mapping[bytes, bytes]
"""By name in lower case."""


def begin_http(tracer: Tracer, method: str, path: str, headers: RawHeaders) -> RequestTrace | None:
    """The trace of a request with this head; end it."""
    known = method if method in METHODS else "_OTHER"
    return tracer.begin(
        "HTTP" if known == "_OTHER" else known,
        {"http.request.method": known, "url.path": path},
        headers.get(b"traceparent", b"").decode("latin-1"),
        headers.get(b"tracestate", b"").decode("latin-1"),
    )


class RequestSpans:
    """Begins a span for each request but health checks and scrapes; a recorded one is named in `traceresponse`."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        trace = begin_http(self._tracer, scope["method"], scope["path"], dict(reversed(scope["headers"])))
        scope["state"]["trace"] = trace
        if trace is None or not trace.is_recorded:
            await self._app(scope, receive, send)
        else:
            await self._record(trace, scope, receive, send)

    async def _record(self, trace: RequestTrace, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500  # of a request that ends without a response
        name = (TRACERESPONSE.encode(), traceresponse(trace).encode())

        async def watch_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], name]}
            await send(message)

        try:
            await self._app(scope, receive, watch_status)
        finally:
            trace.end(status, _route(scope))


def _route(scope: Scope) -> str:
    """The path of the route that served a request, with its parameters' names; empty without."""
    endpoint, parameters = scope.get("endpoint"), scope.get("path_params", {}).keys()
    routes = (route for route in scope["app"].router.routes if isinstance(route, Route))
    return next((r.path for r in routes if r.endpoint == endpoint and r.param_convertors.keys() == parameters), "")
