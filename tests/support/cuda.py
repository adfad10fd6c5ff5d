"""A CUDA driver without a device: tests/support/cuda_stub/, compiled here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tta_server.backends.cuda import libcuda, view_kernel

KERNELS = Path(view_kernel.__file__).parent / "kernels"
COMPILERS = ("g++", "c++", "clang++")


def build_stub(folder: Path) -> Path:
    """Compile the stub; skip the test where there is no C++ compiler."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        pytest.skip(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    target = folder / "libcuda_stub.so"
    source = Path(__file__).parent / "cuda_stub" / "driver.cpp"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    folders = ["-I", str(source.parent), "-I", str(KERNELS)]
    subprocess.run([compiler, *flags, *folders, str(source), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory):
    return build_stub(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def stub_driver(stub_library, monkeypatch):
    """The stub in place of the driver."""
    monkeypatch.setattr(libcuda, "LIBRARY", str(stub_library))
