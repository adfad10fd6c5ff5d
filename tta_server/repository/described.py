"""Where a model's configuration is: tta.yaml in its folder, else the text of one in its file's metadata."""

from pathlib import Path

from tta_server.backends.onnx_metadata import read_metadata
from tta_server.errors import ConfigError
from tta_server.repository.config import ModelConfig, parse_config, read_config

FILE = "tta.yaml"
KEY = "tta.yaml"
"""Of a model file's metadata, with the text of a tta.yaml."""
MODEL, ENDING = "model.onnx", ".onnx"


def is_described(folder: Path) -> bool:
    """Whether a folder is that of a model: it has a tta.yaml, or its newest model file has one in its metadata."""
    return (folder / FILE).is_file() or _embedded(folder) is not None


def config_place(folder: Path) -> str:
    """What an error names as the place of a model's configuration; the model file if that and others describe it."""
    found = None if (folder / FILE).exists() else find_file(folder, MODEL)
    if found is None:
        return str(folder / FILE)
    return f"{found[0]}: metadata {KEY}" if KEY in read_metadata(found[0]) else str(found[0])


def read_folder_config(folder: Path) -> ModelConfig:
    """Return the configuration of a model; raise ConfigError naming place, key, what was found and what is allowed."""
    if (folder / FILE).exists():
        return read_config(folder / FILE)
    text = _embedded(folder)
    if text is not None:
        return parse_config(text, config_place(folder), folder)
    found = find_file(folder, MODEL)
    if found is None:
        return read_config(folder / FILE)  # which says that there is none
    raise ConfigError(
        f"{folder / FILE}: there is no such file, and {found[0].relative_to(folder)} has no metadata {KEY}; "
        "`tta-server init` writes either (--embed)"
    )


def find_file(folder: Path, file: str) -> tuple[Path, str] | None:
    """A model's file and its version: the newest <version>/<file>; else the only ONNX file of the folder, version 1.

    None if there is neither.
    """
    newest = newest_version(folder, file)
    if newest is not None:
        return folder / newest / file, newest
    alone = list(folder.glob(f"*{ENDING}")) if file.endswith(ENDING) else []
    return (alone[0], "1") if len(alone) == 1 else None


def newest_version(folder: Path, file: str) -> str | None:
    """The largest number of a subfolder that holds the model file; None if none does."""
    versions = [path.parent.name for path in folder.glob(f"*/{file}") if path.parent.name.isdigit()]
    return max(versions, key=int, default=None)


def _embedded(folder: Path) -> str | None:
    found = find_file(folder, MODEL)
    return read_metadata(found[0]).get(KEY) if found else None
