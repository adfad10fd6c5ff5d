"""What is in a request's body, counted while it is read, and where it is compressed while it is inflated."""

import asyncio
import math
import zlib

from starlette.requests import ClientDisconnect, Request

from tta_server.api.requests import Reservation
from tta_server.errors import Cancelled, InvalidInput, TooLarge, UnsupportedMedia, shown

TIMEOUT = "x-request-timeout-ms"

WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS | 32}
"""What zlib calls the encodings; clients say deflate of either of its headers."""


async def read_body(request: Request, limit: int, held: Reservation) -> bytes:
    """The whole body, inflated; raises as `read_upload` does."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in (*WINDOWS, "identity"):
        raise UnsupportedMedia(f"the Content-Encoding {encoding[:64]!r} is not known here; gzip and deflate are")
    body = await _read(request, limit, held)
    if encoding == "identity":
        return body
    held.take(limit)
    whole = await asyncio.to_thread(inflated, body, encoding, limit)
    held.give_back(limit - len(whole) + len(body))
    return whole


async def _read(request: Request, limit: int, held: Reservation) -> bytes:
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise TooLarge(f"the body has {stated[:32]} bytes; at most {limit} are taken (--max-bytes)")
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise TooLarge(f"the body has over {limit} bytes, the most taken (--max-bytes)")
            held.take(len(chunk))
            body += chunk
    except ClientDisconnect:
        raise Cancelled("the client left before its image was read") from None
    return bytes(body)


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises TooLarge before it takes more than `limit` bytes, InvalidInput for what is not of that encoding."""
    try:
        return _inflated(body, WINDOWS[encoding], limit)
    except zlib.error:
        if encoding != "deflate":
            raise InvalidInput(f"the body is not {encoding}, as its Content-Encoding says") from None
    try:
        return _inflated(body, -zlib.MAX_WBITS, limit)  # without any header
    except zlib.error:
        raise InvalidInput("the body is not deflate, as its Content-Encoding says") from None


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    inflater = zlib.decompressobj(window)
    data = inflater.decompress(body, limit + 1)
    if len(data) > limit:
        raise TooLarge(f"the body inflates to over {limit} bytes, the most taken (--max-bytes)")
    if not inflater.eof:
        raise InvalidInput("the compressed body breaks off")
    if inflater.unused_data:
        raise InvalidInput("more follows the compressed body; only one stream, or member, is read")
    return data


def query_values(request: Request) -> dict[str, str]:
    """The query's keys and values; raises InvalidInput for a key that is given more than once."""
    params = request.query_params
    for key in params:
        if len(params.getlist(key)) > 1:
            raise InvalidInput(f"{key[:64] if key.isprintable() else shown(key)} is given more than once")
    return dict(params)


def read_timeout(request: Request) -> float | None:
    """Seconds that the header allows, None without one; raises InvalidInput."""
    found = request.headers.get(TIMEOUT)
    if found is None:
        return None
    try:
        timeout = float(found)
    except ValueError:
        timeout = math.nan
    if not timeout > 0:
        raise InvalidInput(f"X-Request-Timeout-Ms takes milliseconds, a number over 0, not {found[:64]!r}")
    return timeout / 1e3


async def disconnected(request: Request) -> None:
    """Returns when the client has left; the body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
