"""Reading an HTTP request: its body, query, timeout and disconnect; both HTTP interfaces use it."""

import asyncio
import math
import zlib

from starlette.requests import ClientDisconnect, Request

from tta_server.api.requests import RequestInfo, Reservation
from tta_server.errors import Cancelled, InvalidInput, TooLarge, UnsupportedMedia, printable

TIMEOUT_HEADER = "x-request-timeout-ms"

WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS | 32}
"""zlib's window bits for each Content-Encoding; `deflate` accepts a gzip header too, which some clients send."""


def request_info(request: Request) -> RequestInfo:
    state = request.state
    model = request.path_params.get("name", "")
    return RequestInfo(state.request_id, request.scope["path"], model, state.trace, state.access)


async def read_body(request: Request, limit: int, reservation: Reservation) -> bytes:
    """The whole body, decompressed, of at most `limit` bytes.

    Raises InvalidInput, TooLarge, UnsupportedMedia, Overloaded or Cancelled.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in (*WINDOW_BITS, "identity"):
        raise UnsupportedMedia(f"unsupported Content-Encoding {encoding[:64]!r}; send gzip, deflate or none")
    body = await _read(request, limit, reservation)
    if encoding == "identity":
        return body
    reservation.acquire(limit)
    inflated = await asyncio.to_thread(inflate, body, encoding, limit)
    reservation.release(limit - len(inflated) + len(body))
    return inflated


async def _read(request: Request, limit: int, reservation: Reservation) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise TooLarge(f"the body has {length[:32]} bytes; the limit is {limit} (--max-bytes)")
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise TooLarge(f"the body exceeds the limit of {limit} bytes (--max-bytes)")
            reservation.acquire(len(chunk))
            body += chunk
    except ClientDisconnect:
        raise Cancelled("the client disconnected before its request was read") from None
    return bytes(body)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises TooLarge before it allocates more than `limit` bytes, InvalidInput if the body is not of that encoding."""
    try:
        return _inflate(body, WINDOW_BITS[encoding], limit)
    except zlib.error:
        if encoding != "deflate":
            raise InvalidInput(f"the body is not {encoding}, as its Content-Encoding declares") from None
    try:
        return _inflate(body, -zlib.MAX_WBITS, limit)  # raw deflate, without a header
    except zlib.error:
        raise InvalidInput("the body is not deflate, as its Content-Encoding declares") from None


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    decompressor = zlib.decompressobj(window_bits)
    data = decompressor.decompress(body, limit + 1)
    if len(data) > limit:
        raise TooLarge(f"the decompressed body exceeds the limit of {limit} bytes (--max-bytes)")
    if not decompressor.eof:
        raise InvalidInput("the compressed body is truncated")
    if decompressor.unused_data:
        raise InvalidInput("data follows the compressed body; send one stream, of one member")
    return data


def query_values(request: Request) -> dict[str, str]:
    """The query's keys and values; raises InvalidInput for a key that is given more than once."""
    params = request.query_params
    for key in params:
        if len(params.getlist(key)) > 1:
            raise InvalidInput(f"{printable(key)} is given more than once")
    return dict(params)


def read_timeout(request: Request) -> float | None:
    """The seconds that the timeout header allows, None without one; raises InvalidInput."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not timeout > 0:
        raise InvalidInput(f"X-Request-Timeout-Ms takes milliseconds, a number over 0, not {text[:64]!r}")
    return timeout / 1e3


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected; only for a request whose body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
