"""The folder of a new model: tta.yaml and its labels, and a copy of the model file, whose metadata may hold both."""

import re
from pathlib import Path

from tta_server.backends.external_data import write_model
from tta_server.backends.onnx_metadata import with_metadata
from tta_server.errors import ConfigError, shown
from tta_server.onboarding.draft import LABEL_FILE, Draft
from tta_server.repository.described import FILE, KEY

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
PLAIN = ("model", "onnx")
"""Names that say nothing of a model, as numbers of versions do not; the folder's is taken instead."""


def default_name(path: Path) -> str:
    """The file's own name, or that of the folder around a file called model.onnx."""
    names = (path.stem, *(folder.name for folder in path.absolute().parents))
    return next(name for name in names if name not in PLAIN and not name.isdigit())


def check_folder(models: Path, name: str, force: bool) -> Path:
    """Return the folder of a model of that name; raise ConfigError unless it may be written."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{shown(name)} can't be a model's name; give --name with letters, digits, '_', '-' and '.', of which "
            "the first is a letter or a digit"
        )
    folder = models / name
    if not folder.exists():
        return folder
    if not force or not folder.is_dir():
        raise ConfigError(f"{folder}: exists; give another --name, or --force to replace its tta.yaml and model file")
    newer = sorted(path.parent.name for path in folder.glob("*/model.onnx") if path.parent.name not in ("0", "1"))
    if newer:
        raise ConfigError(
            f"{folder}: has version {newer[-1]}, which would be served instead of the new one; give another --name"
        )
    return folder


def write_folder(folder: Path, model: Path, content: bytes, made: Draft) -> None:
    """Write the folder of a model file, with `content` for its bytes; files that it does not replace stay.

    Raises OSError, and ConfigError for external data.
    """
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    write_model(model, content, version)
    if made.labels:
        (folder / LABEL_FILE).write_text("".join(f"{label}\n" for label in made.labels), "utf-8")
    (folder / FILE).write_text(made.text, "utf-8")


def write_embedded(folder: Path, model: Path, content: bytes, made: Draft) -> None:
    """Write the folder of a model file whose metadata holds the text of tta.yaml, in place of a tta.yaml.

    Raises OSError, and ConfigError for external data and for a file that would be too large.
    """
    version = folder / "1"
    whole = with_metadata(model, content, KEY, made.text)
    version.mkdir(parents=True, exist_ok=True)
    write_model(model, whole, version)
    (folder / FILE).unlink(missing_ok=True)
