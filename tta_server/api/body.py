"""The image in a request's body: raw, or the multipart field `image`. Counted while it is read."""

from collections.abc import AsyncGenerator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from tta_server.errors import Cancelled, InvalidInput, TooLarge

MULTIPART_OVERHEAD = 16_384
"""Bytes that boundaries and part headers may add."""


async def read_image(request: Request, limit: int) -> bytes:
    """The encoded image; raises InvalidInput or TooLarge.

    Whatever the Content-Type, a body that is not multipart is taken as it is, and its first bytes decide: curl calls
    an image a form, and some clients give no type at all.
    """
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() == "multipart/form-data":
        body = await _read(request, limit + MULTIPART_OVERHEAD)
        return await _field(request, body, kind, limit)
    return await _read(request, limit)


async def _read(request: Request, limit: int) -> bytes:
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise TooLarge(f"the body has {stated} bytes; at most {limit} are taken")
    chunks, total = [], 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise TooLarge(f"the body has over {limit} bytes, the most taken")
            chunks.append(chunk)
    except ClientDisconnect:
        raise Cancelled("the client left before its image was read") from None
    return b"".join(chunks)


async def _field(request: Request, body: bytes, kind: str, limit: int) -> bytes:
    if not parse_options_header(kind)[1].get(b"boundary"):
        raise InvalidInput("the multipart body has no boundary in its Content-Type")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            request.headers,
            stream(),
            max_files=1,
            max_fields=1,
            max_part_size=limit,
        )
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the multipart body can't be read: {error.message}") from None
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise InvalidInput("the multipart body has no file in a field 'image' (curl -F image=@photo.jpg)")
    data = await image.read()
    await form.close()
    if len(data) > limit:
        raise TooLarge(f"the image has {len(data)} bytes; at most {limit} are taken")
    return data
