"""Where a model's configuration is: tta.yaml in its folder, else the text of one in its file's metadata."""

from pathlib import Path

from tta_server.backends.onnx_metadata import read_metadata
from tta_server.errors import ConfigError
from tta_server.repository.config import ModelConfig, parse_config, read_config

FILE = "tta.yaml"
KEY = "tta.yaml"
"""Of a model file's metadata, with the text of a tta.yaml."""
MODEL = "model.onnx"


def is_described(folder: Path) -> bool:
    """Whether a folder is that of a model: it has a tta.yaml, or its newest model file has one in its metadata."""
    return (folder / FILE).is_file() or _embedded(folder) is not None


def config_place(folder: Path) -> str:
    """What an error names as the place of a model's configuration."""
    newest = None if (folder / FILE).exists() else newest_version(folder, MODEL)
    return f"{folder / newest / MODEL}: metadata {KEY}" if newest else str(folder / FILE)


def read_folder_config(folder: Path) -> ModelConfig:
    """Return the configuration of a model; raise ConfigError naming place, key, what was found and what is allowed."""
    if (folder / FILE).exists():
        return read_config(folder / FILE)
    text = _embedded(folder)
    if text is not None:
        return parse_config(text, config_place(folder), folder)
    newest = newest_version(folder, MODEL)
    if newest is None:
        return read_config(folder / FILE)  # which says that there is none
    raise ConfigError(
        f"{folder / FILE}: there is no such file, and {newest}/{MODEL} has no metadata {KEY}; `tta-server init` writes "
        "either (--embed)"
    )


def newest_version(folder: Path, file: str) -> str | None:
    """The largest number of a subfolder that holds the model file; None if none does."""
    versions = [path.parent.name for path in folder.glob(f"*/{file}") if path.parent.name.isdigit()]
    return max(versions, key=int, default=None)


def _embedded(folder: Path) -> str | None:
    newest = newest_version(folder, MODEL)
    return read_metadata(folder / newest / MODEL).get(KEY) if newest else None
