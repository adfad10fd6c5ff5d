"""`multipart/form-data`: one file in the field `image`, and options under the names of the query beside it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tta_server.api.http_request import read_body
from tta_server.api.requests import Reservation, offload_if_large
from tta_server.errors import InvalidInput, TooLarge, shown
from tta_server.serving.options import PredictQuery

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART_OVERHEAD = 65_536
"""Bytes that boundaries, part headers and options may add."""

IMAGE_FIELD = "image"
FIELD_BYTES = 32_768
"""Of one option: as many as a policy of the most characters may have in UTF-8."""
HINT = "curl -F image=@photo.jpg"


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image, and what a form states beside it: option -> text, not validated yet."""

    image: bytes
    options: dict[str, str]


async def read_upload(request: Request, limit: int, held: Reservation) -> Upload:
    """The encoded image, and the options of a form; raises InvalidInput, TooLarge, UnsupportedMedia or Overloaded.

    Whatever the Content-Type, a body that is not multipart is taken as it is, and its first bytes decide: curl calls
    an image a form, and some clients give no type at all.
    """
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() == "multipart/form-data":
        body = await read_body(request, limit + MULTIPART_OVERHEAD, held)
        return await offload_if_large(len(body), lambda: read_form(body, kind, limit))
    return Upload(await read_body(request, limit, held), {})


def read_form(body: bytes, content_type: str, limit: int) -> Upload:
    """`limit` bounds the file, in bytes. Raises InvalidInput or TooLarge."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInput("the multipart body has no boundary in its Content-Type")
    parts = Parts(limit)
    try:
        MultipartParser(boundary, parts.callbacks()).write(body)
    except FormParserError as error:
        at = getattr(error, "offset", -1)
        where = f" from byte {at} on" if at >= 0 else ""
        raise InvalidInput(f"the multipart body can't be read{where}: its parts are not as its boundary says") from None
    return parts.upload()


class Parts:
    """Collects the parts of a form as a parser finds them; raises InvalidInput or TooLarge at the first wrong one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fields: dict[str, bytes] = {}
        self._whole = False
        self._begin()

    def callbacks(self) -> "MultipartCallbacks":
        """By the names that python-multipart gives them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def upload(self) -> Upload:
        if not self._whole:
            raise InvalidInput("the multipart body breaks off: its last boundary is missing")
        if IMAGE_FIELD not in self._fields:
            raise InvalidInput(f"the multipart body has no file in a field '{IMAGE_FIELD}' ({HINT})")
        options = {name: _text(data, name) for name, data in self._fields.items() if name != IMAGE_FIELD}
        return Upload(self._fields[IMAGE_FIELD], options)

    def _begin(self) -> None:
        self._name = ""
        self._headers: dict[bytes, bytes] = {}
        self._header = b"", b""
        self._chunks: list[bytes] = []
        self._size = 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name + data[start:end], value

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name, value + data[start:end]

    def _header_ends(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = b"", b""

    def _headers_end(self) -> None:
        _, stated = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = _text(stated.get(b"name", b""), "the name of a field")
        if not self._name:
            raise InvalidInput("a part of the multipart body has no name")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise InvalidInput(f"the field {shown(self._name)} is encoded for mail; send its bytes as they are")
        _check_field(self._name, b"filename" in stated)
        if self._name in self._fields:
            raise InvalidInput(f"{self._name} is given more than once")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._name == IMAGE_FIELD and self._size > self._limit:
            raise TooLarge(f"the image has over {self._limit} bytes, the most taken")
        if self._name != IMAGE_FIELD and self._size > FIELD_BYTES:
            raise InvalidInput(f"{self._name} has over {FIELD_BYTES} bytes, the most taken")
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        self._fields[self._name] = b"".join(self._chunks)

    def _finish(self) -> None:
        self._whole = True


def _check_field(name: str, is_file: bool) -> None:
    if is_file and name != IMAGE_FIELD:
        raise InvalidInput(f"the field {shown(name)} holds a file; one file is taken, in the field '{IMAGE_FIELD}'")
    if not is_file and name == IMAGE_FIELD:
        raise InvalidInput(f"the field '{IMAGE_FIELD}' is text; send it as a file ({HINT})")
    if name != IMAGE_FIELD and name not in PredictQuery.model_fields:
        known = ", ".join(PredictQuery.model_fields)
        raise InvalidInput(f"unknown field {shown(name)}; known: {IMAGE_FIELD} (the file), {known}")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not text in UTF-8") from None
