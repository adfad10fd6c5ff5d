"""What ONNX Runtime needs to run on a CUDA device, checked before anything is loaded: it would use the CPU instead."""

import contextlib
import io
import logging
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import onnxruntime as ort

from tta_server.backends.cuda.driver import Device, count_devices, open_device
from tta_server.errors import ConfigError

log = logging.getLogger(__name__)

FIRST = "cuda:0"
PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]>=1.31,<2'"
"""One folder holds either package, so the other one has to go first."""


def missing_for_auto() -> str:
    """Return why `device: auto` is the CPU, empty if FIRST can be used."""
    return missing_package() if count_devices() else "there is no CUDA device"


def require_cuda(index: int) -> Device:
    """Return the device; raise ConfigError with the command to run if it or a package is missing."""
    device = open_device(index)
    if missing := missing_package():
        raise ConfigError(f"backend.device is cuda:{index}, but {missing}")
    load_libraries()
    return device


def missing_package() -> str:
    """Return what is wrong with the installed packages, and the command that mends it; empty if nothing is."""
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        return (
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed and overwrite each other: run `{INSTALL}`"
        )
    if PROVIDER not in ort.get_available_providers():
        return f"the installed onnxruntime {ort.__version__} runs on CPUs only: run `{INSTALL}`"
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def load_libraries() -> None:
    """Load CUDA's libraries from the packages that bring them; what the system has is found without.

    ONNX Runtime logs an error for each plan of a convolution that cuDNN does not have, and takes the next one: that is
    switched off, and what matters is raised.
    """
    ort.set_default_logger_severity(4)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls(directory="")
    if said.getvalue():
        log.debug("libraries of CUDA: %s", said.getvalue())
