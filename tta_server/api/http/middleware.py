"""What every HTTP request passes before its handler: request id, cross-origin rules, internal errors, keys."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.auth import OPEN_PATHS, Keys
from tta_server.api.errors import INTERNAL, STATUS, error_response, plain_response
from tta_server.api.requests import RequestHandler, RequestInfo, new_id
from tta_server.errors import Unauthenticated

EXPOSED = (
    "X-Request-Id",
    "Server-Timing",
    "Retry-After",
    "TTA-Views",
    "TTA-Stop-Reason",
    "Inference-Header-Content-Length",
)
"""Headers of answers that a script of another origin may read."""
PREFLIGHT_SECONDS = 600
"""How long a browser may remember what a preflight allowed."""


class RequestIds:
    """Every answer carries the client's own `X-Request-Id` if it is sane, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = new_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = name

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        await self._app(scope, receive, stamped)


class CrossOrigin(CORSMiddleware):
    """Scripts of these origins may ask and read the answers, errors too; `*` means every origin. A preflight carries no
    key and needs none."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_SECONDS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's headers, with a body of ours where it refuses."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return Response(status_code=204, headers=_without_body(response))
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        sentence = f"{method[:16]!r} from the origin {origin[:128]!r} is not allowed here; see --cors-origin"
        refused = plain_response(response.status_code, sentence)
        refused.headers.update(_without_body(response))
        return refused


def _without_body(response: Response) -> dict[str, str]:
    return {key: value for key, value in response.headers.items() if key not in ("content-length", "content-type")}


class InternalErrors:
    """Answers a request that fails unexpectedly with 500, and raises the error again, to be logged."""

    def __init__(self, app: ASGIApp, reception: RequestHandler) -> None:
        self._app = app
        self._reception = reception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] == "http" and not started:
                visit = RequestInfo(
                    scope["state"]["request_id"], scope["path"], scope.get("path_params", {}).get("name", "")
                )
                self._reception.refused(visit, 500, "internal", repr(error))
                await plain_response(500, INTERNAL)(scope, receive, send)
            raise


class AuthMiddleware:
    """Lets in who has a key; what health checks ask needs none."""

    def __init__(self, app: ASGIApp, keys: Keys, reception: RequestHandler) -> None:
        self._app = app
        self._keys = keys
        self._reception = reception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._keys.check(Headers(scope=scope).get("authorization", ""))
            except Unauthenticated as error:
                visit = RequestInfo(scope["state"]["request_id"], scope["path"])
                self._reception.failed(visit, error, STATUS[error.code])
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
