"""Which device runs a program, and what is said where it can't. Without torch."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.torch_archives import records, write
from tta_server.backends import BACKENDS, RunOptions
from tta_server.backends.torch.loading import batch_sizes, choose_device
from tta_server.errors import ConfigError


def torch_with(devices: int, cuda: str | None = "13.0") -> Any:
    """What is asked of torch about its devices."""
    about = {"is_available": lambda: devices > 0, "device_count": lambda: devices, "get_device_name": lambda _: "a GPU"}
    return SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(**about))


@pytest.mark.parametrize(
    ("wanted", "torch", "device"),
    [
        ("cpu", torch_with(2), "cpu"),
        ("cuda:1", torch_with(2), "cuda:1"),
        ("auto", torch_with(2), "cuda:0"),
        ("auto", torch_with(0), "cpu"),
        ("auto", torch_with(0, None), "cpu"),
    ],
)
def test_the_device_is_the_one_that_is_asked_for(wanted: str, torch: Any, device: str) -> None:
    assert choose_device(torch, wanted)[0] == device


@pytest.mark.parametrize(
    ("torch", "sentence"),
    [
        (
            torch_with(0, None),
            "is a build without CUDA; install one with it: on Linux `pip install --force-reinstall torch` does",
        ),
        (torch_with(0), "PyTorch finds no CUDA device; look at what nvidia-smi prints"),
        (torch_with(1), "the last device here is cuda:0"),
    ],
)
def test_a_device_that_is_missing_is_never_replaced_by_the_cpu(torch: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_device(torch, "cuda:1")
    assert str(caught.value).startswith("backend.device is cuda:1, and ")
    assert sentence in str(caught.value)


def test_auto_says_why_it_is_the_cpu() -> None:
    assert "finds no CUDA device" in choose_device(torch_with(0), "auto")[1]
    assert "is a build without CUDA" in choose_device(torch_with(0, None), "auto")[1]
    assert choose_device(torch_with(1), "auto")[1] == choose_device(torch_with(0), "cpu")[1] == ""


def test_without_torch_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = write(tmp_path / "model.pt2", records())
    with pytest.raises(ConfigError, match=r"pip install 'tta-server\[torch\]'"):
        BACKENDS["torch"](path, RunOptions())


def test_batches_of_a_device_double_up_to_the_largest_allowed() -> None:
    assert batch_sizes(None, 64, 1024) == (1, 2, 4, 8, 16, 32, 64)
    assert batch_sizes(None, 48, None) == (1, 2, 4, 8, 16, 32, 48)
    assert batch_sizes(None, 64, 6) == (1, 2, 4, 6)
    assert batch_sizes(None, 1, 64) == (1,)
    assert batch_sizes(1, 64, 1) == (1,)
