"""Load an exported program: which device, and what torch says if it can't."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tta_server.backends.base import CPU
from tta_server.backends.torch.archive import Archive
from tta_server.errors import ConfigError

log = logging.getLogger(__name__)

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""The variable that keeps torch.load from unpickling anything but tensors."""


def import_torch() -> ModuleType:
    """Import torch, which takes a second; raise ConfigError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "backend.name is torch, and PyTorch is not installed here; install it: pip install 'tta-server[torch]'"
        ) from error
    return torch  # type: ignore[no-any-return,unused-ignore]


def choose_device(torch: Any, wanted: str) -> tuple[str, str]:
    """The device for `cpu`, `cuda:N` or `auto`, and why `auto` is the CPU; raise ConfigError if it is not there."""
    if wanted == CPU:
        return CPU, ""
    missing = _missing(torch, 0 if wanted == "auto" else int(wanted.partition(":")[2] or 0))
    if wanted == "auto":
        return (CPU if missing else "cuda:0"), missing
    if missing:
        raise ConfigError(f"backend.device is {wanted}, and {missing}, or set backend.device: cpu")
    return wanted, ""


def _missing(torch: Any, index: int) -> str:
    """Why a CUDA device can't be used, and what to do; empty if it can."""
    if torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} is a build without CUDA; install one with it: on Linux "
            "`pip install --force-reinstall torch` does, from the default index"
        )
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device; look at what nvidia-smi prints, and give this process a device"
    count = torch.cuda.device_count()
    if index >= count:
        return f"the last device here is cuda:{count - 1}; take one from cuda:0 to that"
    return ""


def batch_sizes(fixed: int | None, wanted: int, most: int | None) -> Sequence[int]:
    """1, 2, 4, ... rows of a device's batches, up to `wanted` and what the program allows; a fixed batch alone."""
    if fixed is not None:
        return (fixed,)
    largest = min(wanted, most or wanted)
    return (*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest)


def load_module(torch: Any, archive: Archive, path: Path) -> Any:
    """The program as a module whose weights are where the archive says; raise ConfigError if torch refuses it."""
    try:
        with _weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of how torch reads its own archives
            module = torch.export.load(archive.content).module()
    except Exception as error:  # the loader of torch raises errors of many kinds
        log.debug("torch refused %s", path, exc_info=error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ConfigError(
            f"{path}: PyTorch {torch.__version__} can't load the program: {reason}; export it with the "
            "version that runs here"
        ) from error
    return module.requires_grad_(False)


@contextmanager
def _weights_only() -> Iterator[None]:
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(WEIGHTS_ONLY, None)
        else:
            os.environ[WEIGHTS_ONLY] = before
