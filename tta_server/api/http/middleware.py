"""HTTP middleware: request ids, cross-origin rules, internal errors, authentication."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.auth import OPEN_PATHS, Keys
from tta_server.api.errors import HTTP_STATUS, INTERNAL_ERROR, error_response, status_response
from tta_server.api.requests import RequestHandler, RequestInfo, choose_request_id
from tta_server.errors import Unauthenticated
from tta_server.telemetry.tracing import client_trace

EXPOSED_HEADERS = (
    "X-Request-Id",
    "Server-Timing",
    "Retry-After",
    "TTA-Views",
    "TTA-Stop-Reason",
    "TTA-Cached",
    "TTA-Model-Digest",
    "Inference-Header-Content-Length",
    "Traceresponse",
)
"""Response headers that scripts of another origin may read."""
PREFLIGHT_SECONDS = 600
"""How long a browser may cache a preflight response."""


class RequestIds:
    """Gives every response the client's `X-Request-Id` if that is valid, else a new one; names the client's trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # of several with one name the first counts
        request_id = choose_request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        trace = client_trace(headers.get(b"traceparent", b"").decode("latin-1"))
        scope.setdefault("state", {}).update(request_id=request_id, trace=trace, access=b"")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        await self._app(scope, receive, send_with_id)


class CrossOrigin(CORSMiddleware):
    """Lets scripts of `origins` send requests and read the responses, errors too; `*` is every origin.

    A preflight needs no key.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's headers, with our error body if it refuses."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return Response(status_code=204, headers=_without_body(response))
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        sentence = f"{method[:16]!r} from the origin {origin[:128]!r} is not allowed; see --cors-origin"
        refusal = status_response(response.status_code, sentence)
        refusal.headers.update(_without_body(response))
        return refusal


def _without_body(response: Response) -> dict[str, str]:
    return {key: value for key, value in response.headers.items() if key not in ("content-length", "content-type")}


class InternalErrors:
    """Responds with 500 to a request that fails unexpectedly, and raises the error again, for the log."""

    def __init__(self, app: ASGIApp, handler: RequestHandler) -> None:
        self._app = app
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch_start)
        except Exception as error:
            if scope["type"] == "http" and not started:
                model = scope.get("path_params", {}).get("name", "")
                info = RequestInfo(scope["state"]["request_id"], scope["path"], model, scope["state"]["trace"])
                self._handler.record_refusal(info, 500, "internal", repr(error))
                await status_response(500, INTERNAL_ERROR)(scope, receive, send)
            raise


class AuthMiddleware:
    """Refuses requests without a valid key, except health checks; others get the key's digest as their `access`."""

    def __init__(self, app: ASGIApp, keys: Keys, handler: RequestHandler) -> None:
        self._app = app
        self._keys = keys
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                scope["state"]["access"] = self._keys.check(Headers(scope=scope).get("authorization", ""))
            except Unauthenticated as error:
                info = RequestInfo(scope["state"]["request_id"], scope["path"], trace=scope["state"]["trace"])
                self._handler.record_error(info, error, HTTP_STATUS[error.code])
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
