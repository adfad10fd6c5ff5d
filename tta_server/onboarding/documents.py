"""Files beside a model, or named by the user, as evidence: JSON by its content, labels by their lines."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tta_server.errors import ConfigError
from tta_server.onboarding.evidence import Document

LARGEST = 16 << 20
"""Bytes of a file that is read."""
HUGGING_FACE = ("config.json", "preprocessor_config.json", "processor_config.json")
MMDEPLOY = ("pipeline.json", "detail.json", "deploy.json")
BESIDE = (*HUGGING_FACE, *MMDEPLOY)
"""Names under which tools save what describes a model; timm takes the first too."""
LABELS = ("labels.txt", "classes.txt", "class_names.txt")


def documents_beside(model: Path) -> Sequence[Document]:
    """Return what lies beside a model file; of a file in a folder `onnx` also what lies beside that folder."""
    folder = model.absolute().parent
    folders = [folder, folder.parent] if folder.name == "onnx" else [folder]
    found: dict[str, Path] = {}
    for each in folders:
        for path in (each / name for name in (*BESIDE, *LABELS)):
            if path.is_file():
                found.setdefault(path.name, path)
    return [_attempt(path) for path in found.values()]


def _attempt(path: Path) -> Document:
    """A file that may belong to something else is no reason to stop."""
    try:
        return _read(path)
    except ConfigError as error:
        return Document(path.name, None, str(error))


def documents_in(given: Path) -> Sequence[Document]:
    """Return the file that a user named, or what is known in a folder. Raises ConfigError if there is nothing."""
    if not given.is_dir():
        return [_read(given)]
    found = [_read(given / name) for name in (*BESIDE, *LABELS) if (given / name).is_file()]
    if not found:
        raise ConfigError(f"{given}: holds none of {', '.join((*BESIDE, *LABELS))}; name a file")
    return found


def read_labels(path: Path) -> Document:
    """Return the lines of a text file."""
    return Document(path.name, list(_lines(_text(path))))


def _read(path: Path) -> Document:
    text = _text(path)
    if path.suffix != ".json":
        return Document(path.name, list(_lines(text)))
    return Document(path.name, _parsed(path, text))


def _parsed(path: Path, text: str) -> Any:
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
