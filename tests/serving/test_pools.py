"""One pool of CPU cores and one a device in one server: their sizes, and which thread runs which model."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.pictures import encoded
from tests.support.toys import faulty_model, serving
from tta_server.backends import CPU, Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.serving.pools import Pools, PoolSize, pool_sizes

GREY = encoded(np.full((8, 8, 3), 128, np.uint8))


def test_without_a_device_the_slots_are_the_cores() -> None:
    assert pool_sizes([CPU, CPU], None, None, 16) == {CPU: PoolSize(16, 0)}
    assert pool_sizes([CPU], 3, 4, 16) == {CPU: PoolSize(3, 4)}
    assert pool_sizes([], None, None, 2) == {CPU: PoolSize(2, 0)}


def test_with_a_device_its_workers_are_the_cores_but_two() -> None:
    assert pool_sizes([CPU, "cuda:0"], None, None, 16) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 14)}
    assert pool_sizes(["cuda:0"], 4, 6, 16) == {CPU: PoolSize(4, 0), "cuda:0": PoolSize(1, 6)}
    assert pool_sizes(["cuda:0"], None, None, 2) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 1)}
    assert pool_sizes(["cuda:0"], None, 0, 2) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 0)}


def test_devices_share_the_workers() -> None:
    sizes = pool_sizes(["cuda:1", "cuda:0", "cuda:1"], None, None, 16)
    assert sizes == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 7), "cuda:1": PoolSize(1, 7)}


class Placed(Backend):
    """A real backend that states another device, and remembers the threads and sizes of its batches."""

    def __init__(self, real: Backend, device: str) -> None:
        self.signature, self.device, self.ladder = real.signature, device, (1, 2, 4)
        self._real = real
        self.threads, self.rows = set[str](), set[int]()

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        self.threads.add(threading.current_thread().name)
        self.rows.add(len(batch))
        return self._real.infer(batch, abort)

    def close(self) -> None:
        self._real.close()


def test_each_model_runs_in_the_pool_of_its_device(tmp_path: Path) -> None:
    models = [load_model(faulty_model(tmp_path / name)) for name in ("here", "there")]
    backends = [Placed(model.backend, device) for model, device in zip(models, (CPU, "clock:0"), strict=True)]
    placed = [replace(model, backend=backend) for model, backend in zip(models, backends, strict=True)]
    with serving(*placed, workers=2) as client:
        for backend in backends:
            backend.threads.clear()
        for name in ("here", "there") * 3:
            answer = client.post(f"/v1/models/{name}/predict?min_views=all", content=GREY)
            assert (answer.status_code, len(answer.json()["receipt"]["views"])) == (200, 2)
        jobs = client.get("/metrics").text
    assert {name.rpartition("-")[0] for name in backends[0].threads} == {"slot"}
    assert backends[1].threads == {"device-0"}
    assert backends[1].rows <= {1, 2, 4}
    assert "tta_jobs 0.0" in jobs


def test_a_device_that_the_server_has_no_pool_for_is_named(tmp_path: Path) -> None:
    model = load_model(faulty_model(tmp_path / "toy"))
    placed = replace(model, backend=Placed(model.backend, "clock:0"))
    with pytest.raises(ConfigError, match=r"toy: backend.device is clock:0; .* without a model on it .*: restart it"):
        Pools({}).of(placed)
