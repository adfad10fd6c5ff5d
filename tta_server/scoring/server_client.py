"""A tta-server over HTTP, as scoring asks it: httpx, of the extra `score`."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tta_server.errors import Code, ConfigError

CONNECT_SECONDS = 10.0
GRACE_SECONDS = 30.0
"""After the budget of a request, until its connection counts as lost."""
DIGEST = "TTA-Model-Digest"
"""The header that names the model of an answer."""


IMAGE_CODES = frozenset([Code.INVALID_INPUT, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA])
"""What is wrong with an image."""
BUSY_CODES = frozenset([Code.OVERLOADED, Code.NOT_READY])
PASSING_CODES = frozenset([Code.BACKEND_FAILED, Code.INTERNAL, Code.CANCELLED])
"""Failures that may pass when the same is asked again: a batch that took too long fails for all images in it."""
TOO_LARGE, TOO_MANY = 413, 429
"""Statuses that a proxy uses too, without a code: the body is too large for it, or requests are too many."""
TOO_SLOW = 408
"""The server's status for a request that did not arrive in time."""
PROXY_STATUSES = (502, 503, 504)
"""Of what stands before a server that is gone; the server's own have a code."""


class ConnectionLost(Exception):
    """The server can't be reached, or ended the connection; the text says how."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: `body` is its JSON, empty where it has none. `retry_after` is in seconds, None where not stated.

    `status` is 0 where the connection was lost.
    """

    status: int
    body: Mapping[str, Any]
    digest: str
    retry_after: float | None

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))

    @property
    def is_of_image(self) -> bool:
        """True if it says what is wrong with the image."""
        return self.code in IMAGE_CODES or (self.status == TOO_LARGE and not self.code)

    @property
    def is_busy(self) -> bool:
        """True if the request was refused, and may be sent again later."""
        return self.code in BUSY_CODES or (self.status == TOO_MANY and not self.code)

    @property
    def is_late(self) -> bool:
        """True if the request did not reach the server, or no answer came in time."""
        if self.status in PROXY_STATUSES and not self.code:
            return True
        return self.status in (0, TOO_SLOW) or self.code == Code.DEADLINE_EXCEEDED

    @property
    def sentence(self) -> str:
        return str(self.body.get("error", f"the server answered with status {self.status}"))


class ServerClient:
    """Keeps connections open; several threads may use it. `key` is sent and never shown."""

    def __init__(self, url: str, key: str | None = None, cacert: str | None = None) -> None:
        """Raises ConfigError for a URL, key or certificate that can't be used, or without httpx."""
        if find_spec("httpx") is None:
            raise ConfigError("--url needs httpx: pip install 'tta-server[score]'")
        self._httpx: Any = import_module("httpx")
        self.url = _check_url(url)
        headers = {"Content-Type": "application/octet-stream"}
        if key is not None:
            headers["Authorization"] = f"Bearer {_check_key(key)}"
        self._client = self._httpx.Client(
            headers=headers,
            verify=_tls(cacert),
            timeout=self._httpx.Timeout(GRACE_SECONDS, connect=CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Reply:
        """Raises ConnectionLost."""
        return self._send("GET", self.address(path, query or {}), b"", GRACE_SECONDS)

    def post(self, address: Any, content: bytes, seconds: float) -> Reply:
        """Send bytes to an `address` of this client; wait `seconds` for the answer at least. Raises ConnectionLost."""
        return self._send("POST", address, content, seconds + GRACE_SECONDS)

    def address(self, path: str, query: Mapping[str, Any]) -> Any:
        return self._httpx.URL(f"{self.url}{path}{'?' if query else ''}{urlencode(query, quote_via=quote)}")

    def _send(self, method: str, address: Any, content: bytes, seconds: float) -> Reply:
        timeout = self._httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            return _reply(self._client.request(method, address, content=content, timeout=timeout))
        except self._httpx.TimeoutException:
            raise ConnectionLost(f"no answer within {seconds:g} s") from None
        except (self._httpx.RequestError, UnicodeError) as error:  # UnicodeError: a host name that none can have
            text = re.sub(r"^\[Errno \d+\] ", "", str(error))
            raise ConnectionLost(text or type(error).__name__) from None

    def close(self) -> None:
        self._client.close()


def _reply(response: Any) -> Reply:
    try:
        body = response.json()
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    return Reply(response.status_code, body, response.headers.get(DIGEST, ""), _retry_after(body, response.headers))


def _retry_after(body: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Seconds, from the body in milliseconds, or from the header in whole seconds."""
    stated = body.get("retry_after_ms")
    if isinstance(stated, int | float):
        return max(0.0, stated / 1e3)
    header = headers.get("Retry-After", "")
    return float(header) if header.isdecimal() else None


def _check_url(url: str) -> str:
    """Without a `/` at its end."""
    wrong = ConfigError("--url takes the address of a tta-server like http://host:8000, without a query")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise ConfigError("--url takes no user and password; give the server's key by --key-file or TTA_KEY")
    return url.rstrip("/")


def _check_key(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("the key for --url must be one word of printable ASCII characters")
    return key


def _tls(cacert: str | None) -> ssl.SSLContext | bool:
    try:
        return ssl.create_default_context(cafile=cacert) if cacert else True
    except OSError as error:  # SSLError is one
        reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"--cacert {cacert}: can't be used: {reason}") from None
