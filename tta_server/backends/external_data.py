"""External data of an ONNX file: weights that lie in other files, which its tensors name.

Only what leads to tensors is read. Field numbers are those of onnx/onnx.proto.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from tta_server.backends.protobuf import fields, text
from tta_server.errors import ConfigError, shown

FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message -> field number -> message, for the fields that lead to tensors."""

LONGEST = 1000
"""Characters of a location; longer ones are no file's."""

EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1
"""Fields of a TensorProto, and the value of `data_location` for weights in another file."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One tensor's weights: the file that holds them, relative to the model file's folder, and the bytes it must have.

    `is_initializer` is true for an initializer of the main graph, false inside a branch, a function or an attribute.
    """

    location: str
    end: int
    is_initializer: bool


def find_references(model: bytes) -> Sequence[Reference]:
    """Return the references to other files in the bytes of a model file; none if the bytes are no model."""
    try:
        return list(_references(memoryview(model), ("model",)))
    except (IndexError, ValueError, RecursionError):
        return ()  # the backend says what is wrong with the file


def external_files(path: Path, references: Sequence[Reference]) -> dict[str, Path]:
    """Return location -> file of the references of the model file `path`, sorted by location.

    Raises ConfigError for a location outside the model file's folder, and for a file that is missing or too short.
    """
    found: dict[str, Path] = {}
    for reference in sorted(references, key=lambda each: (each.location, -each.end)):
        location = reference.location
        if location not in found:
            found[location] = _file(path, location)
            _check_length(path, reference, found[location])
    return found


def copy_model(path: Path, folder: Path) -> None:
    """Copy a model file into a folder as model.onnx, and its external data. Raises OSError, and as external_files."""
    write_model(path, path.read_bytes(), folder)


def write_model(path: Path, content: bytes, folder: Path) -> None:
    """Write `content`, made of the model file `path`, into a folder as model.onnx, and copy its external data.

    Raises OSError, and as external_files.
    """
    files = external_files(path, find_references(content))
    for location, file in files.items():
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        if file.resolve() != (folder / location).resolve():
            shutil.copyfile(file, folder / location)
    (folder / "model.onnx").write_bytes(content)


def _file(path: Path, location: str) -> Path:
    given = PurePath(location)
    if not given.parts or given.is_absolute() or ".." in given.parts:
        raise ConfigError(
            f"{path}: weights are in {shown(location)}, outside the folder of the model file; save the model again "
            f"with its external data in a file beside it, like '{path.name}_data'"
        )
    file = path.parent / given
    if len(location) > LONGEST or not file.is_file():
        raise ConfigError(
            f"{path}: weights are in {shown(location)}, which is missing; put that file into the folder of the model "
            "file, or save the model with its weights inside"
        )
    return file


def _check_length(path: Path, reference: Reference, file: Path) -> None:
    size = file.stat().st_size
    if size < reference.end:
        raise ConfigError(
            f"{path}: weights are in {shown(reference.location)}, which has {size} bytes; the model needs "
            f"{reference.end}: the file is incomplete or belongs to another model; copy both files again"
        )


def _references(message: memoryview, trail: tuple[str, ...]) -> Iterator[Reference]:
    """Yield the references inside a message; `trail` has the kinds of the messages that contain it, and its own."""
    if trail[-1] == "tensor":
        yield from _reference(message, trail == ("model", "graph", "tensor"))
        return
    inner = FIELDS[trail[-1]]
    for number, value in fields(message):
        if number in inner and isinstance(value, memoryview):
            yield from _references(value, (*trail, inner[number]))


def _reference(tensor: memoryview, is_initializer: bool) -> Iterator[Reference]:
    entries: dict[str, str] = {}
    external = False
    for number, value in fields(tensor):
        if number == DATA_LOCATION:
            external = value == EXTERNAL
        elif number == EXTERNAL_DATA and isinstance(value, memoryview):
            parts = dict(fields(value))
            entries[text(parts.get(1))] = text(parts.get(2))
    if external:
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        yield Reference(entries.get("location", ""), end, is_initializer)
