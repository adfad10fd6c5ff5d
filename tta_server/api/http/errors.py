"""The exception handlers of the HTTP interface: each logs an error and makes its response."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tta_server.api.errors import HTTP_STATUS, error_response, status_response
from tta_server.api.http_request import request_info
from tta_server.api.requests import RequestHandler
from tta_server.errors import TTAError


class ErrorHandlers:
    """Exception handlers for TTAError and for Starlette's HTTPException."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def respond(self, request: Request, error: TTAError) -> JSONResponse:
        self.record(request, error)
        return error_response(error)

    def record(self, request: Request, error: TTAError) -> None:
        """Count and log the error of a request."""
        self._handler.record_error(request_info(request), error, HTTP_STATUS[error.code])

    async def respond_unrouted(self, request: Request, error: HTTPException) -> Response:
        """For an unknown path or a method that the path does not have; OPTIONS lists the methods that it has."""
        if request.method == "OPTIONS" and error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            methods = sorted({*allowed.split(", "), "OPTIONS"} - {""})
            return Response(status_code=204, headers={"Allow": ", ".join(methods)})
        path = request.url.path[:128]
        sentence = f"{path} does not take {request.method}" if error.status_code == 405 else f"unknown path {path}"
        sentence += "; see /docs"
        self._handler.record_refusal(request_info(request), error.status_code, "refused", sentence)
        response = status_response(error.status_code, sentence)
        response.headers.update(error.headers or {})
        return response
