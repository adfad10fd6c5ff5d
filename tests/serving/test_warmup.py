"""What can't run views, or whose outputs can't be read, is refused before it serves."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.references import MODELS
from tests.support.remote import RemoteServer, remote_folder
from tests.support.toys import SLOW_SECONDS, switchable, trap_model
from tta_server.backends import Backend, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendUnavailable, ConfigError, OutOfDeviceMemory
from tta_server.imaging.placement import Placement
from tta_server.repository.loader import load_model
from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.serving.warmup import warm_up, warm_up_beside_requests
from tta_server.tasks import ImageFrame, Outputs
from tta_server.tasks.scores.classification import Classification


def test_a_model_whose_every_view_can_not_be_read_is_refused_at_load(tmp_path: Path) -> None:
    toy = load_model(trap_model(tmp_path / "toy", batch="n"))

    class Always(Classification):
        def decode(self, outputs: Outputs, row: int, placement: Placement, scene: ImageFrame) -> Any:
            raise RuntimeError("no such row")

    task = Always(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    with pytest.raises(ConfigError, match="toy: its output can't be read: no such row"):
        warm_up(replace(toy, task=task), CostModel(), 1)


def test_beside_requests_a_model_costs_what_it_computes_not_what_it_waits(tmp_path: Path) -> None:
    """Each of its runs stands still for a fifth of a second, as beside slots that come first."""
    toy, switch = switchable(load_model(trap_model(tmp_path / "toy", batch="n")))
    switch.mode = "slow"
    costs = CostModel()
    warm_up_beside_requests(toy, costs)
    assert costs.seconds(Bucket("toy", 8, 8), 1, 0.0) < SLOW_SECONDS / 2


class Small:
    """A device with memory for `most` rows."""

    permits = 0

    def __init__(self, real: Backend, most: int) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, (1, 2, 4, 8)
        self._real, self._most = real, most
        self.sizes: list[int] = []

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        self.sizes.append(len(batch))
        if len(batch) > self._most:
            raise OutOfDeviceMemory("no memory")
        return self._real.infer(batch, abort)

    def close(self) -> None:
        self._real.close()


def test_the_largest_batch_of_a_device_runs_first(tmp_path: Path) -> None:
    """After the test images, of which two are one batch at most."""
    toy = load_model(trap_model(tmp_path / "toy", batch="n"))
    device = Small(toy.backend, 8)
    warm_up(replace(toy, backend=device), CostModel(), 1, ladder=(1, 2, 4, 8))
    assert [size for size in device.sizes if size > 2][:2] == [8, 4]


def test_the_ladder_ends_where_the_device_has_no_memory(tmp_path: Path) -> None:
    toy = load_model(trap_model(tmp_path / "toy", batch="n"))
    costs = CostModel()
    warm_up(replace(toy, backend=Small(toy.backend, 2)), costs, 1, ladder=(1, 2, 4, 8))
    assert costs.rungs(Bucket("toy", 8, 8)) in ([1], [1, 2])
    with pytest.raises(ConfigError, match="toy"):
        warm_up(replace(toy, backend=Small(toy.backend, 0)), CostModel(), 1, ladder=(1, 2))


def test_a_server_elsewhere_that_fails_while_costs_are_measured_is_tried_again(tmp_path: Path) -> None:
    """It may do so just after its start; the sentence for clients does not name it."""
    with RemoteServer({"cifar10": MODELS / "cifar10" / "1" / "model.onnx"}) as remote:
        model = load_model(remote_folder(tmp_path / "cifar10", MODELS / "cifar10", remote.url))

        def clock() -> float:
            """Asked once the test images were run."""
            remote.failure = grpc.StatusCode.INTERNAL
            return time.monotonic()

        with pytest.raises(BackendUnavailable) as caught:
            warm_up(model, CostModel(), 1, clock)
        model.retire()
    assert str(caught.value) == "its Triton server failed while its costs were measured"
    assert "INTERNAL: on purpose" in caught.value.reason
    assert (caught.value.device, caught.value.permits) == (remote.url, 4)
