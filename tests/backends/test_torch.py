"""Programs that torch exported give what ONNX Runtime gives; needs torch."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.references import MODELS, session
from tests.support.serving import Server
from tests.support.torch_archives import crafted, records, write
from tta_server.backends import BACKENDS, Backend, RunOptions
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, ConfigError

pytest.importorskip("torch", reason="torch is not installed")

import torch

from tests.support.torch_models import OnnxModule
from tests.support.torch_programs import export, exported
from tta_server.backends.torch.device_runs import DeviceRuns

BUNDLED = {
    "clothing": ((128, 128), (2, 3)),
    "cifar10": ((32, 32), ()),
    "nuclei-count": ((256, 256), ()),
    "nuclei": ((64, 96), (2, 3)),
    "mouse": ((64, 96), (2, 3)),
}
"""Side lengths to try, and free axes beside the batch."""
TOLERANCE = 1e-5


def load(path: Path, options: RunOptions = RunOptions()) -> Backend:  # noqa: B008 - frozen
    return BACKENDS["torch"](path, options)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).random(shape, np.float32)


@pytest.fixture(scope="module")
def clothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clothing") / "model.pt2"
    module = OnnxModule(MODELS / "clothing" / "1" / "model.onnx")
    return export(module, path, torch.rand(2, 3, 128, 128), free=(2, 3))


def test_a_program_made_by_hand_gives_the_means_times_the_weights(tmp_path: Path) -> None:
    backend = load(write(tmp_path / "model.pt2", records()))
    batch = np.ones((2, 3, 8, 8), np.float32) * np.array([[1, 2, 3], [0, 5, 10]], np.float32)[:, :, None, None]
    assert backend.infer(batch)["scores"].tolist() == [[1, 4, 9], [0, 10, 30]]
    assert (backend.device, tuple(backend.ladder), backend.permits) == ("cpu", (), 0)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_give_what_onnx_runtime_gives(tmp_path: Path, name: str) -> None:
    sides, free = BUNDLED[name]
    module = OnnxModule(MODELS / name / "1" / "model.onnx")
    backend = load(export(module, tmp_path / "model.pt2", torch.rand(2, 3, *sides), free))
    reference = session(name)
    for rows in (1, 3):
        batch = images(rows, 3, *(sides if rows == 1 or not free else (sides[0] + 32, sides[1] + 64)))
        (expected,) = reference.run(None, {reference.get_inputs()[0].name: batch})
        found = backend.infer(batch)["output"]
        assert found.dtype == expected.dtype
        assert np.abs(found - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


RUN_CODE = ["sample inputs", "use_pickle", "code as a size", "code as a guard"]
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
    RUN_CODE.append("opaque object")


@pytest.mark.parametrize("kind", RUN_CODE)
@pytest.mark.filterwarnings("ignore")
def test_crafted_files_run_code_where_torch_opens_them_and_not_here(tmp_path: Path, kind: str) -> None:
    alone, ours = tmp_path / "alone", tmp_path / "ours"
    load_with_torch = (
        "import sys, torch, contextlib\nwith contextlib.suppress(Exception): "
        "torch.export.load(sys.argv[1]).module()(torch.zeros(2, 3, 8, 8))"
    )
    path = write(tmp_path / "alone.pt2", crafted(alone)[kind])
    subprocess.run([sys.executable, "-c", load_with_torch, str(path)], check=False, capture_output=True, timeout=120)
    assert alone.exists()  # or the file shows nothing
    with pytest.raises(ConfigError):
        load(write(tmp_path / "ours.pt2", crafted(ours)[kind]))
    assert not ours.exists()


@pytest.mark.filterwarnings("ignore")
def test_real_torchscript_and_pickles_are_refused(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 4, 3).eval()
    torch.jit.trace(net, torch.rand(1, 3, 8, 8)).save(tmp_path / "script.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, what in {"script.pt": "TorchScript", "state.pt": "pickled", "old.pt": "pickled"}.items():
        with pytest.raises(ConfigError, match=what):
            load(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    torch.export.save(torch.export.export(net, (torch.rand(2, 3, 8, 8),)), tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match=r"training mode.*model.eval\(\)"):
        load(tmp_path / "model.pt2")


def test_outputs_are_named_by_how_the_model_returns_them(tmp_path: Path) -> None:
    forms: dict[str, Callable[[Any], Any]] = {
        "output": lambda x: x.mean((2, 3)),
        "output_0 output_1": lambda x: (x.mean((2, 3)), x.amax((2, 3))),
        "scores map": lambda x: {"scores": x.mean((2, 3)), "map": x * 2},
    }
    batch = images(2, 3, 8, 8)
    for names, forward in forms.items():
        backend = load(exported(tmp_path / names.split()[0], forward))
        found = backend.infer(batch)
        assert list(found) == names.split() == list(backend.signature.outputs)
        assert np.allclose(next(iter(found.values())), batch.mean((2, 3)), atol=1e-6)


def test_images_of_other_types_are_taken_as_they_are(tmp_path: Path) -> None:
    for dtype in (torch.uint8, torch.float16):
        image = torch.ones(2, 3, 8, 8, dtype=dtype)
        backend = load(exported(tmp_path / str(dtype), lambda x: x.float().mean((2, 3)), image))
        batch = np.full((3, 3, 8, 8), 200, backend.signature.dtype)
        assert backend.infer(batch)["output"].tolist() == [[200.0] * 3] * 3


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    backend = load(exported(tmp_path, lambda x: x.mean((2, 3)).bfloat16()))
    assert backend.infer(images(1, 3, 8, 8))["output"].dtype == np.float32


def test_a_model_that_writes_into_its_input_changes_no_batch(tmp_path: Path) -> None:
    backend = load(exported(tmp_path, lambda x: x.mul_(0).sum((2, 3))))
    batch = images(2, 3, 8, 8)
    before = batch.copy()
    batch.flags.writeable = False
    assert backend.infer(batch)["output"].tolist() == [[0.0] * 3] * 2
    assert np.array_equal(batch, before)


def test_slots_share_a_model(clothing: Path) -> None:
    backend = load(clothing)
    batches = [images(rows, 3, 128, 128) for rows in (1, 2, 3, 4)] * 4
    alone = [backend.infer(batch)["output"] for batch in batches]
    with ThreadPoolExecutor(4) as slots:
        together = list(slots.map(lambda batch: backend.infer(batch)["output"], batches))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone, together, strict=True))


def test_each_thread_has_the_threads_of_the_model_that_it_runs(clothing: Path) -> None:
    one, two = load(clothing, RunOptions(threads=1)), load(clothing, RunOptions(threads=2))
    for backend, threads in ((one, 1), (two, 2), (one, 1)):
        backend.infer(images(1, 3, 128, 128))
        assert torch.get_num_threads() == threads


def test_a_batch_that_is_too_large_for_the_program_is_run_in_parts(tmp_path: Path) -> None:
    backend = load(write(tmp_path / "model.pt2", records()))  # at most 64
    batch = images(150, 3, 8, 8)
    expected = batch.mean((2, 3)) * [1, 2, 3]
    assert np.allclose(backend.infer(batch)["scores"], expected, atol=1e-5)


def test_a_size_that_the_program_was_not_exported_for_fails(clothing: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = load(clothing)
    with pytest.raises(BackendFailed, match="not exported for images of this size"):
        backend.infer(images(1, 3, 8, 8))
    assert "size()" in caplog.text
    with pytest.raises(BackendFailed, match="the model failed on this image"):
        backend.infer(images(1, 4, 128, 128))
    assert backend.infer(images(1, 3, 128, 128))["output"].shape == (1, 10)


def test_a_run_aborted_before_its_start_does_not_start(clothing: Path) -> None:
    abort = Abort()
    abort.request()
    with pytest.raises(BackendFailed):
        load(clothing).infer(images(1, 3, 128, 128), abort)


def test_a_device_that_is_not_there_is_a_mistake_of_the_configuration(clothing: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=r"backend\.device is cuda:0, and"):
        load(clothing, RunOptions("cuda:0"))
    found = load(clothing, RunOptions("auto"))
    assert found.device == "cpu"
    assert found.where.startswith("backend.device is auto: cpu, for PyTorch ")
    assert load(clothing).where == ""


def test_a_program_that_torch_cannot_load_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    broken = records()
    broken["models/model.json"] = broken["models/model.json"].replace(b"aten.mul.Tensor", b"aten.mul.Nothing")
    with pytest.raises(ConfigError, match=r"PyTorch .* can't load the program: .*export it with the version"):
        load(write(tmp_path / "model.pt2", broken))


def test_runs_on_tensors_that_are_on_the_device_already(clothing: Path) -> None:
    backend: Any = load(clothing)
    runs: DeviceRuns = backend.runs
    batch = images(2, 3, 128, 128)
    with runs.lock:
        buffer = runs.buffer(batch.shape)
        assert buffer.is_contiguous()
        assert runs.buffer(batch.shape).data_ptr() == buffer.data_ptr()
        buffer.copy_(torch.from_numpy(batch))
        found = runs.to_host(runs.run(buffer))
    assert np.allclose(found["output"], backend.infer(batch)["output"], atol=1e-6)
    with runs.lock:
        assert np.array_equal(runs.to_host(runs.run(runs.upload(batch)))["output"], found["output"])


def test_buffers_of_many_shapes_are_given_back(tmp_path: Path) -> None:
    backend: Any = load(exported(tmp_path, lambda x: x.mean((2, 3)), free=(2, 3)))
    for side in range(2, 200):
        found = backend.runs.to_host(backend.runs.run(backend.runs.upload(images(1, 3, side, side))))
        assert np.allclose(found["output"], images(1, 3, side, side).mean((2, 3)), atol=1e-6)


def test_a_closed_backend_holds_no_model(clothing: Path) -> None:
    backend = load(clothing)
    backend.close()
    with pytest.raises(BackendFailed):
        backend.infer(images(1, 3, 128, 128))


def test_a_server_answers_with_a_program_as_with_the_file_it_was_made_of(tmp_path: Path, clothing: Path) -> None:
    original, folder = MODELS / "clothing", tmp_path / "clothing"
    (folder / "1").mkdir(parents=True)
    shutil.copy(clothing, folder / "1" / "model.pt2")
    config = (original / "tta.yaml").read_text("utf-8")
    (folder / "tta.yaml").write_text(f"{config}backend: torch\n", "utf-8")
    shutil.copytree(original, tmp_path / "onnx")
    image = (original / "sample.jpg").read_bytes()
    with Server("--port", "0", "--slots", "2", "--models", str(tmp_path)) as server, server.client() as client:
        found, expected = (
            client.post(
                f"/v1/models/{name}/predict?stop=all&min_views=all&budget_ms=9000&top_k=10", content=image
            ).json()
            for name in ("clothing", "onnx")
        )
        platform = client.get("/v2/models/clothing").json()["platform"]
    assert platform == "torch"
    scores, wanted = (
        {each["label"]: each["probability"] for each in answer["prediction"]["top"]} for answer in (found, expected)
    )
    assert scores.keys() == wanted.keys()
    assert max(abs(scores[label] - wanted[label]) for label in wanted) <= TOLERANCE
    assert found["receipt"]["views"] == expected["receipt"]["views"]


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, tta_server.application; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
