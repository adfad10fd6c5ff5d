"""pyarrow, of the extra `score`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tta_server.errors import ConfigError


def has_pyarrow() -> bool:
    return find_spec("pyarrow") is not None


def pyarrow() -> Any:
    """Raises ConfigError with the command that installs it."""
    if not has_pyarrow():
        raise ConfigError("Parquet needs pyarrow: pip install 'tta-server[score]', or use --format jsonl")
    return import_module("pyarrow")


def pyarrow_parquet() -> Any:
    """Raises ConfigError with the command that installs it."""
    pyarrow()
    return import_module("pyarrow.parquet")
