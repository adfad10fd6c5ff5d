"""Files beside a model, or named by the user, as evidence: JSON, Triton's config.pbtxt, and labels by their lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tta_server.errors import ConfigError
from tta_server.onboarding.evidence import Document
from tta_server.onboarding.readers import triton
from tta_server.onboarding.readers.torchvision_weights import PREFIX, read_weights

LARGEST = 16 << 20
"""Bytes of a file that is read."""
BESIDE: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("config.json", "preprocessor_config.json", "processor_config.json"), ()),
    "pipeline.json": ["pipeline"],
    "detail.json": ["codebase_config"],
    "deploy.json": ["customs"],
    "model_config.json": ["model_architecture"],
    "inference_config.json": ["network_input"],
    "environment.json": ["PREPROCESSING", "CLASS_MAP"],
    triton.NAME: [],
}
"""Names under which Hugging Face and timm, mmdeploy, Roboflow and Triton save what describes a model.

Behind a name that programs of all kinds use are the keys of which it has one here; without, the file is another's.
"""
LABELS = ("labels.txt", "classes.txt", "class_names.txt")


def documents_beside(model: Path) -> Sequence[Document]:
    """Return what lies beside a model file, or beside its folder `onnx`, or `1` as in Triton's repositories."""
    folder = model.absolute().parent
    is_inner = folder.name == "onnx" or folder.name.isdigit()
    found: dict[str, Path] = {}
    for each in [folder, folder.parent] if is_inner else [folder]:
        for path in (each / name for name in (*BESIDE, *LABELS)):
            if path.is_file():
                found.setdefault(path.name, path)
    return [document for document in map(_attempt, found.values()) if not _is_another_s(document)]


def _is_another_s(document: Document) -> bool:
    keys = BESIDE.get(document.name, ())
    return bool(keys) and isinstance(document.content, dict) and not document.content.keys() & set(keys)


def _attempt(path: Path) -> Document:
    """A file that may belong to something else is no reason to stop."""
    try:
        return _read(path)
    except ConfigError as error:
        return Document(path.name, None, str(error))


def documents_in(given: Path) -> Sequence[Document]:
    """Return the file that a user named, what is known in a folder, or of torchvision's weights.

    Raises ConfigError if there is nothing.
    """
    if str(given).startswith(PREFIX):
        return [read_weights(str(given))]
    if not given.is_dir():
        return [_read(given)]
    read = [_read(given / name) for name in (*BESIDE, *LABELS) if (given / name).is_file()]
    found = [document for document in read if not _is_another_s(document)]
    if not found:
        raise ConfigError(f"{given}: holds none of {', '.join((*BESIDE, *LABELS))}; name a file")
    return found


def read_labels(path: Path) -> Document:
    """Return the lines of a text file."""
    return Document(path.name, list(_lines(_text(path))))


def _read(path: Path) -> Document:
    text = _text(path)
    if path.suffix == ".json":
        return Document(path.name, _json(path, text))
    if path.suffix == triton.ENDING:
        return Document(path.name, _triton(path, text))
    return Document(path.name, list(_lines(text)))


def _triton(path: Path, text: str) -> Any:
    """The fields of a config.pbtxt, with the lines of the files of labels that it names, if they lie beside it."""
    try:
        found = triton.parse_config(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    files = [path.parent / name for name in triton.label_files(found)]
    return found | {triton.LABELS: {file.name: list(_lines(_text(file))) for file in files if file.is_file()}}


def _json(path: Path, text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(f"{path}: is not valid JSON{place}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no JSON object; a config.json or preprocessor_config.json is one")
    return found


def _text(path: Path) -> str:
    """The text of a file of at most LARGEST bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: has over {LARGEST >> 20} MiB; a file that describes a model has less")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8") from None


def _lines(text: str) -> Iterator[str]:
    for line in text.rstrip().split("\n"):
        yield line.strip()
