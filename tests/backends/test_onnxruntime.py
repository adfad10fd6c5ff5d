"""The ONNX Runtime backend with real files: aborts and failures."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, save

from tests.support.toys import trap_image, trap_model
from tta_server.backends.cancel import Abort
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.errors import BackendFailed

pytestmark = pytest.mark.timing

Batch = NDArray[np.float32]
PATIENCE = 20


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnnxRuntimeBackend]:
    folder = trap_model(tmp_path_factory.mktemp("models") / "trap", batch="n")
    opened = OnnxRuntimeBackend(folder / "1" / "model.onnx")
    yield opened
    opened.close()


def batch(*traps: str | None, shade: int = 100) -> Batch:
    rows = [trap_image(trap, shade=shade).transpose(2, 0, 1) for trap in traps]
    return np.ascontiguousarray(rows, np.float32)


def scores(backend: OnnxRuntimeBackend, images: Batch, abort: Abort | None = None) -> Batch:
    return np.asarray(backend.infer(images, abort)["scores"])


def end(backend: OnnxRuntimeBackend, abort: Abort) -> None:
    """Start an endless run, and abort it."""
    with ThreadPoolExecutor(1) as slot:
        run = slot.submit(backend.infer, batch("endless"), abort)
        with pytest.raises(TimeoutError):
            run.result(timeout=0.1)
        abort.request()
        with pytest.raises(BackendFailed):
            run.result(timeout=PATIENCE)


def test_an_aborted_endless_run_ends_and_the_runtime_prints_nothing(
    backend: OnnxRuntimeBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    end(backend, Abort())
    assert capfd.readouterr().err == ""


def test_an_abort_does_not_affect_other_runs_of_the_session(backend: OnnxRuntimeBackend) -> None:
    alone, ended = scores(backend, batch(None)), threading.Event()

    def others() -> list[Batch]:
        found = []
        while not ended.is_set():
            found.append(scores(backend, batch(None), Abort()))
        return found

    with ThreadPoolExecutor(1) as slot:
        meanwhile = slot.submit(others)
        end(backend, Abort())
        ended.set()
        seen = meanwhile.result(timeout=PATIENCE)
    assert seen
    for found in [*seen, scores(backend, batch(None))]:
        assert np.array_equal(found, alone)


def test_a_run_aborted_before_its_start_does_not_start(backend: OnnxRuntimeBackend) -> None:
    abort = Abort()
    abort.request()
    with ThreadPoolExecutor(1) as slot, pytest.raises(BackendFailed):
        slot.submit(backend.infer, batch("endless"), abort).result(timeout=PATIENCE)


def test_an_abort_that_is_not_requested_changes_nothing(backend: OnnxRuntimeBackend) -> None:
    images = batch(None, None, shade=60)
    assert np.array_equal(scores(backend, images, Abort()), scores(backend, images))


def test_a_failure_does_not_quote_the_runtime(backend: OnnxRuntimeBackend) -> None:
    with pytest.raises(BackendFailed) as caught:
        backend.infer(batch(None, "fails"))
    assert str(caught.value) == "the model failed on this image"
    assert caught.value.__cause__ is not None


def test_nan_stays_in_its_row(backend: OnnxRuntimeBackend) -> None:
    found = scores(backend, batch(None, "nan", None))
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, "h", "w"), ("h", "w", 3)])
def test_an_image_without_a_batch_axis_is_given_one(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    """As if the file had a batch of 1; so are its outputs."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))
    twice = helper.make_tensor_value_info("twice", TensorProto.FLOAT, list(shape))
    made = helper.make_graph([helper.make_node("Add", ["image", "image"], ["twice"])], "tiny", [image], [twice])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    backend = OnnxRuntimeBackend(tmp_path / "model.onnx")
    free = (1, *(side if isinstance(side, int) else None for side in shape))
    assert backend.signature.shape == backend.signature.outputs["twice"] == free
    batch = np.random.default_rng(0).random((1, 3, 4, 6) if shape[0] == 3 else (1, 4, 6, 3), np.float32)
    np.testing.assert_array_equal(backend.infer(batch)["twice"], batch * 2)
