"""Refuses predict requests by their heads alone, before a task is started for them or their bodies are read."""

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from urllib.parse import parse_qsl

from tta_server.api.auth import Keys
from tta_server.api.errors import HTTP_STATUS, error_body
from tta_server.api.http.spans import begin_http
from tta_server.api.http_request import TIMEOUT_HEADER
from tta_server.api.requests import RequestHandler, RequestInfo, choose_request_id
from tta_server.api.spans import TRACERESPONSE, traceresponse
from tta_server.application import Application
from tta_server.errors import Overloaded, Unauthenticated

TARGET = re.compile(
    rb"(?P<path>/v1/models/(?P<v1>[^/?]+)/predict|/v2/models/(?P<v2>[^/?]+)(?:/versions/[^/?]+)?/infer)(?:\?(?P<query>.*))?"
)
"""Targets of requests that would be admitted to the scheduler."""

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""


def budget_seconds(query: str, headers: Headers) -> float | None:
    """The budget that a head states in its query or its timeout header, None without one or if it is no number."""
    given = [value for key, value in parse_qsl(query) if key == "budget_ms"]
    given += [value.decode("latin-1") for name, value in headers if name == TIMEOUT_HEADER.encode()]
    try:
        return min(map(float, given), default=None) / 1e3  # type: ignore[operator]
    except (TypeError, ValueError):
        return None


class HeadBound:
    """What the protocol asks at the end of each head."""

    def __init__(self, application: Application, handler: RequestHandler, keys: Keys | None) -> None:
        self._application = application
        self._handler = handler
        self._keys = keys

    def refusal(self, method: bytes, target: bytes, headers: Headers) -> bytes | None:
        """The whole response if the request is refused, None if it is to be handled.

        A request that would get another error is not refused: without a valid key, for a model that does not serve.
        """
        found = TARGET.fullmatch(target) if method == b"POST" else None
        if found is None:
            return None
        name = (found["v1"] or found["v2"]).decode("latin-1")
        query = (found["query"] or b"").decode("latin-1") if found["v1"] else ""
        if not self._application.admits(name) or not self._has_key(headers):
            return None
        try:
            self._handler.bound.accept(name, lambda: budget_seconds(query, headers))
        except Overloaded as error:
            return self._refuse(found, name, headers, error)
        return None

    def _refuse(self, found: re.Match[bytes], model: str, headers: Headers, error: Overloaded) -> bytes:
        """Records the refusal, with a span of its own; returns the response."""
        path = found["path"].decode("latin-1")
        trace = begin_http(self._application.tracer, "POST", path, dict(reversed(headers)))
        info = RequestInfo(_request_id(headers), path, model, trace)
        self._handler.record_error(info, error, HTTP_STATUS[error.code])
        if trace is not None:
            trace.end(HTTP_STATUS[error.code], route_of(found))
        return _response(info, error)

    def _has_key(self, headers: Headers) -> bool:
        if self._keys is None:
            return True
        try:
            self._keys.check(_value(headers, b"authorization") or "")
        except Unauthenticated:
            return False
        return True


def _response(info: RequestInfo, error: Overloaded) -> bytes:
    status = HTTP_STATUS[error.code]
    body = json.dumps(error_body(error)).encode()
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"retry-after: {max(1, ceil(error.retry_after))}",
        f"x-request-id: {info.request_id}",
        *([f"{TRACERESPONSE}: {traceresponse(info.trace)}"] if info.trace and info.trace.is_recorded else []),
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def route_of(found: re.Match[bytes]) -> str:
    """The route of a target, as the application names it."""
    start, end = found.span("v1" if found["v1"] else "v2")
    rest = re.sub(rb"(?<=^/versions/)[^/]+", b"{version}", found["path"][end:])
    return (found["path"][:start] + b"{name}" + rest).decode("latin-1")


def _request_id(headers: Headers) -> str:
    return choose_request_id(_value(headers, b"x-request-id"))


def _value(headers: Headers, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)
