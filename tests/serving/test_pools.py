"""One pool of CPU cores and one a device in one server: their sizes, and which thread runs which model."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.pictures import encoded
from tests.support.toys import faulty_model, serving
from tests.support.works import PATIENCE
from tta_server.backends import CPU, Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.serving.pools import Pools, PoolSize, pool_sizes

GREY = encoded(np.full((8, 8, 3), 128, np.uint8))


def test_without_a_device_the_slots_are_the_cores() -> None:
    assert pool_sizes({CPU: 0}, None, None, 16) == {CPU: PoolSize(16, 0)}
    assert pool_sizes({CPU: 0}, 3, 4, 16) == {CPU: PoolSize(3, 4)}
    assert pool_sizes({}, None, None, 2) == {CPU: PoolSize(2, 0)}


def test_with_a_device_its_workers_are_the_cores_but_two() -> None:
    assert pool_sizes({CPU: 0, "cuda:0": 0}, None, None, 16) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 14, 2)}
    assert pool_sizes({"cuda:0": 0}, 4, 6, 16) == {CPU: PoolSize(4, 0), "cuda:0": PoolSize(1, 6, 2)}
    assert pool_sizes({"cuda:0": 0}, None, None, 2) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 1, 2)}
    assert pool_sizes({"cuda:0": 0}, None, 0, 2) == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 0)}


def test_devices_share_the_workers() -> None:
    sizes = pool_sizes({"cuda:1": 0, "cuda:0": 0}, None, None, 16)
    assert sizes == {CPU: PoolSize(1, 0), "cuda:0": PoolSize(1, 7, 2), "cuda:1": PoolSize(1, 7, 2)}


def test_a_remote_server_has_a_slot_for_each_batch_that_it_takes_at_once() -> None:
    sizes = pool_sizes({CPU: 0, "grpc://gpu:8001": 4}, None, None, 16)
    assert sizes == {CPU: PoolSize(1, 0), "grpc://gpu:8001": PoolSize(4, 14, in_flight=1)}


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


class Remote(Placed):
    """A server elsewhere that takes two batches at once, and answers neither before it has both."""

    permits = 2

    def __init__(self, real: Backend) -> None:
        super().__init__(real, "grpc://elsewhere")
        self.both: threading.Barrier | None = None

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        if self.both:
            self.both.wait(PATIENCE)
        return super().infer(batch, abort)


def test_a_remote_server_gets_as_many_batches_at_once_as_it_takes(tmp_path: Path) -> None:
    """Two models, whose views share no batch; a request of each is answered once both batches are there."""
    models = [load_model(faulty_model(tmp_path / name)) for name in ("one", "two")]
    backends = [Remote(model.backend) for model in models]
    placed = [replace(model, backend=backend) for model, backend in zip(models, backends, strict=True)]
    with serving(*placed, workers=2) as client, ThreadPoolExecutor(2) as clients:
        both = threading.Barrier(2)
        for backend in backends:
            backend.threads.clear()
            backend.both = both

        def ask(name: str) -> httpx.Response:
            return client.post(f"/v1/models/{name}/predict?max_views=1&budget_ms=10000", content=GREY)

        assert [answer.status_code for answer in clients.map(ask, ("one", "two"))] == [200, 200]
        for backend in backends:
            backend.both = None
    assert {name for backend in backends for name in backend.threads} == {"slot-0", "slot-1"}


def test_a_device_that_the_server_has_no_pool_for_is_named(tmp_path: Path) -> None:
    model = load_model(faulty_model(tmp_path / "toy"))
    placed = replace(model, backend=Placed(model.backend, "clock:0"))
    with pytest.raises(ConfigError, match=r"toy: backend.device is clock:0; .* without a model on it .*: restart it"):
        Pools({}).of(placed)
