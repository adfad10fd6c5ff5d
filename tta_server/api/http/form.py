"""The body of a predict request: an image, or `multipart/form-data` with the image and its options."""

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
"""Bytes that boundaries, part headers and options may add to the image."""

IMAGE_FIELD = "image"
MAX_FIELD_BYTES = 32_768
"""Of one option: the longest policy in UTF-8."""
CURL_HINT = "curl -F image=@photo.jpg"


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image, and the options of its form as text: name -> value, not validated."""

    image: bytes
    options: dict[str, str]


async def read_upload(request: Request, limit: int, reservation: Reservation) -> Upload:
    """Read the request's body; raises as `read_body` and `read_form` do.

    A body that is not multipart is an image, whatever its Content-Type: curl's default is a form's, and some clients
    send none.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() == "multipart/form-data":
        body = await read_body(request, limit + MULTIPART_OVERHEAD, reservation)
        return await offload_if_large(len(body), lambda: read_form(body, content_type, limit))
    return Upload(await read_body(request, limit, reservation), {})


def read_form(body: bytes, content_type: str, limit: int) -> Upload:
    """Parse a form whose image has at most `limit` bytes. Raises InvalidInput or TooLarge."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInput("the multipart body has no boundary in its Content-Type")
    parts = PartCollector(limit)
    try:
        MultipartParser(boundary, parts.callbacks()).write(body)
    except FormParserError as error:
        offset = getattr(error, "offset", -1)
        place = f" at byte {offset}" if offset >= 0 else ""
        raise InvalidInput(f"the multipart body is malformed{place}: its parts do not match its boundary") from None
    return parts.upload()


class PartCollector:
    """Collects a form's parts by the callbacks of a MultipartParser, which raise InvalidInput or TooLarge."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fields: dict[str, bytes] = {}
        self._complete = False
        self._on_part_begin()

    def callbacks(self) -> "MultipartCallbacks":
        """By python-multipart's names."""
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def upload(self) -> Upload:
        """Raises InvalidInput for a form that is truncated or has no image."""
        if not self._complete:
            raise InvalidInput("the multipart body is truncated: its last boundary is missing")
        if IMAGE_FIELD not in self._fields:
            raise InvalidInput(f"the multipart body has no file in a field '{IMAGE_FIELD}' ({CURL_HINT})")
        options = {name: _text(data, name) for name, data in self._fields.items() if name != IMAGE_FIELD}
        return Upload(self._fields[IMAGE_FIELD], options)

    def _on_part_begin(self) -> None:
        self._name = ""
        self._headers: dict[bytes, bytes] = {}
        self._header = b"", b""
        self._chunks: list[bytes] = []
        self._size = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name + data[start:end], value

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name, value + data[start:end]

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = b"", b""

    def _on_headers_finished(self) -> None:
        _, disposition = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = _text(disposition.get(b"name", b""), "the name of a field")
        if not self._name:
            raise InvalidInput("a part of the multipart body has no name")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise InvalidInput(
                f"the field {shown(self._name)} has a Content-Transfer-Encoding; send its bytes as they are"
            )
        _check_field(self._name, b"filename" in disposition)
        if self._name in self._fields:
            raise InvalidInput(f"{self._name} is given more than once")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._name == IMAGE_FIELD and self._size > self._limit:
            raise TooLarge(f"the image exceeds the limit of {self._limit} bytes (--max-bytes)")
        if self._name != IMAGE_FIELD and self._size > MAX_FIELD_BYTES:
            raise InvalidInput(f"{self._name} exceeds the limit of {MAX_FIELD_BYTES} bytes")
        self._chunks.append(data[start:end])

    def _on_part_end(self) -> None:
        self._fields[self._name] = b"".join(self._chunks)

    def _on_end(self) -> None:
        self._complete = True


def _check_field(name: str, is_file: bool) -> None:
    """Raises InvalidInput."""
    if is_file and name != IMAGE_FIELD:
        raise InvalidInput(f"the field {shown(name)} is a file; the form takes one file, in the field '{IMAGE_FIELD}'")
    if not is_file and name == IMAGE_FIELD:
        raise InvalidInput(f"the field '{IMAGE_FIELD}' is text; send it as a file ({CURL_HINT})")
    if name != IMAGE_FIELD and name not in PredictQuery.model_fields:
        known = ", ".join(PredictQuery.model_fields)
        raise InvalidInput(f"unknown field {shown(name)}; known: {IMAGE_FIELD} (the file), {known}")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not text in UTF-8") from None
