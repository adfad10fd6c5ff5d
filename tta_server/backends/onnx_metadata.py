"""Metadata of an ONNX file, `metadata_props`: read without the rest of the file, written without changing the rest.

Field numbers are those of onnx/onnx.proto.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tta_server.backends.protobuf import fields, length_delimited, spans, text, varint
from tta_server.errors import ConfigError

METADATA, KEY, VALUE = 14, 1, 2
"""Fields of a ModelProto, and of its entries."""
HEAD = 20
"""Bytes of the longest tag and length."""
LONGEST = 16 << 20
"""Bytes of an entry that is read."""
MOST = 2**31 - 1
"""Bytes of a message of Protocol Buffers."""


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of a file; none if it can't be read or is no model, which the backend says better."""
    try:
        with path.open("rb") as file:
            return dict(_entry(part) for part in _entries(file))
    except (OSError, IndexError, ValueError):
        return {}


def with_metadata(path: Path, content: bytes, key: str, value: str) -> bytes:
    """Return the bytes of a model file with this entry, in place of those of the same key; all others stay as they are.

    Raises ConfigError, which names `path`, for a file that would be too large, and for bytes that are no model.
    """
    message = memoryview(content)
    try:
        kept = [message[start:end] for number, part, start, end in spans(message) if not _is(number, part, key)]
    except (IndexError, ValueError):
        raise ConfigError(f"{path}: the file is no ONNX model, or cut off") from None
    entry = length_delimited(KEY, key.encode()) + length_delimited(VALUE, value.encode())
    made = b"".join([*kept, length_delimited(METADATA, entry)])
    if len(made) > MOST:
        raise ConfigError(
            f"{path}: with its tta.yaml the file would have {len(made)} bytes, and an ONNX file can have {MOST}; save "
            "the model with external data, or leave tta.yaml beside it"
        )
    return made


def _entries(file: BinaryIO) -> Iterator[memoryview]:
    """The entries' bytes; other fields are skipped. Raises ValueError and IndexError for other bytes."""
    at, size = 0, file.seek(0, 2)
    while at < size:
        file.seek(at)
        head = file.read(HEAD)
        tag, used = varint(head, 0)
        length = {1: 8, 3: 0, 4: 0, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            number, used = varint(head, used)
            length = number if tag & 7 == 2 else 0
        elif tag & 7 > 5:
            raise ValueError(f"wire type {tag & 7}")
        if tag == METADATA << 3 | 2 and length <= LONGEST:
            file.seek(at + used)
            yield memoryview(file.read(length))
        at += used + length
    if at > size:
        raise ValueError("the file is cut off")


def _entry(part: memoryview) -> tuple[str, str]:
    values = dict(fields(part))
    return text(values.get(KEY)), text(values.get(VALUE))


def _is(number: int, part: int | memoryview | None, key: str) -> bool:
    return number == METADATA and isinstance(part, memoryview) and _entry(part)[0] == key
