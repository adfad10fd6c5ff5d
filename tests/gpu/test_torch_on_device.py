"""Programs of PyTorch on a real device give what they give on the CPU, by the first run of a shape and by replays."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from tests.support.torch_programs import export, exported
from tta_server.backends.base import RunOptions
from tta_server.backends.torch.backend import TorchBackend
from tta_server.errors import OutOfDeviceMemory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

CUDA = RunOptions("cuda:0", max_batch=16)
ROWS = (16, 1, 8, 2, 4, 16, 1, 8, 2, 4)
TOLERANCE = {"exact": 1e-4, "tf32": 2e-2, "fp16": 5e-2}


class Net(nn.Module):
    """Convolutions, a residual, and scores of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(image)
        x = x + self.body(x)
        return {"scores": self.head(x.mean((2, 3))), "best": x.mean((2, 3)).argmax(1), "maps": x}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Net(), tmp_path_factory.mktemp("net") / "model.pt2", torch.rand(2, 3, 32, 32), free=(2, 3))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_batches_of_changing_size_give_what_the_cpu_gives(path: Path, precision: str) -> None:
    device = TorchBackend(path, RunOptions("cuda:0", precision=precision, max_batch=16))
    cpu = TorchBackend(path)
    assert tuple(device.ladder) == (1, 2, 4, 8, 16)
    assert precision in device.where
    first: dict[int, Any] = {}
    for rows in ROWS:
        batch = images(rows, 3, 32, 32)
        found, expected = device.infer(batch), cpu.infer(batch)
        assert found["scores"].dtype == found["maps"].dtype == np.float32
        assert found["best"].dtype == np.int64
        for name in ("scores", "maps"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=TOLERANCE[precision])
        np.testing.assert_allclose(found["scores"], first.setdefault(rows, found)["scores"], rtol=0, atol=1e-6)
    device.close()


def test_exact_is_not_rounded_after_a_model_that_is(path: Path) -> None:
    exact, rounded = (TorchBackend(path, RunOptions("cuda:0", precision=each)) for each in ("exact", "tf32"))
    cpu, batch = TorchBackend(path), images(4, 3, 64, 64)
    for _ in range(2):
        rounded.infer(batch)
        np.testing.assert_allclose(exact.infer(batch)["maps"], cpu.infer(batch)["maps"], rtol=0, atol=1e-4)


def test_a_batch_that_is_on_the_device_already(path: Path) -> None:
    backend = TorchBackend(path, CUDA)
    for rows in (4, 2, 4):
        batch = images(rows, 3, 32, 32)

        def fill(address: int, batch: np.ndarray = batch) -> None:
            buffer = backend.runs.buffer(batch.shape)
            assert buffer.data_ptr() == address
            buffer.copy_(torch.from_numpy(batch))

        found = backend.infer_filled(batch.shape, fill)
        np.testing.assert_allclose(found["scores"], backend.infer(batch)["scores"], rtol=0, atol=1e-6)


def test_a_program_that_writes_into_its_input_or_views_it(tmp_path: Path) -> None:
    doubled = TorchBackend(exported(tmp_path / "doubled", lambda x: x.mul_(2).sum((2, 3))), CUDA)
    viewed = TorchBackend(exported(tmp_path / "viewed", lambda x: (x * 2).view(x.shape[0], 3, 64).sum(2)), CUDA)
    for rows in (2, 3, 2):
        batch = images(rows, 3, 8, 8)
        for backend in (doubled, viewed):
            np.testing.assert_allclose(backend.infer(batch)["output"], 2 * batch.sum((2, 3)), rtol=0, atol=1e-4)


def test_more_shapes_than_are_recorded(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 16, 16)
    backend = TorchBackend(exported(tmp_path, lambda x: torch.relu(x).mean((2, 3)), image, free=(2, 3)), CUDA)
    for side in [*range(8, 90), 8, 50, 89]:
        batch = images(1, 3, side, side)
        expected = np.maximum(batch, 0).mean((2, 3))
        np.testing.assert_allclose(backend.infer(batch)["output"], expected, rtol=0, atol=1e-5)


def test_models_on_one_device_run_on_threads_of_their_own(path: Path) -> None:
    backends = [TorchBackend(path, CUDA) for _ in range(2)]
    cpu = TorchBackend(path)
    batches = [images(rows, 3, 32, 32) for rows in (1, 2, 4, 8)]

    def run(backend: TorchBackend) -> list[np.ndarray]:
        return [backend.infer(batch)["scores"] for batch in batches * 3]

    with ThreadPoolExecutor(2) as slots:
        for found in slots.map(run, backends):
            for scores, batch in zip(found, batches * 3, strict=True):
                np.testing.assert_allclose(scores, cpu.infer(batch)["scores"], rtol=0, atol=1e-4)


def test_a_batch_beyond_the_memory_limit_leaves_smaller_ones_possible(tmp_path: Path) -> None:
    many = torch.ones(512, 3, 3, 3)
    convolve = nn.functional.conv2d
    wide = exported(tmp_path, lambda x: convolve(x, many, padding=1).mean((2, 3)), torch.rand(2, 3, 256, 256))
    backend = TorchBackend(wide, RunOptions("cuda:0", memory_mb=1024))
    try:
        with pytest.raises(OutOfDeviceMemory):
            backend.infer(images(64, 3, 256, 256))
        assert backend.infer(images(1, 3, 256, 256))["output"].shape == (1, 512)
    finally:
        backend.close()
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


LOSE = """
import sys
from pathlib import Path
import numpy as np
from tta_server.backends.base import RunOptions
from tta_server.backends.torch.backend import TorchBackend
from tta_server.errors import BackendFailed, DeviceLost
backend = TorchBackend(Path(sys.argv[1]), RunOptions("cuda:0"))
assert backend.infer(np.zeros((1, 3, 8, 8), np.uint8))["output"].shape == (1, 4)
for _ in range(2):
    try:
        backend.infer(np.full((1, 3, 8, 8), 200, np.uint8))
    except DeviceLost:
        print("lost")
"""


def test_an_index_out_of_range_loses_the_device(tmp_path: Path) -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(8, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.table(image[:, 0, 0, 0].long())

    path = export(Lookup(), tmp_path / "model.pt2", torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    done = subprocess.run(
        [sys.executable, "-c", LOSE, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["lost", "lost"], done.stderr[-2000:]
