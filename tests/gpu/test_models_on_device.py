"""Models on a real device, by ONNX Runtime and by torch, answer as on the CPU. See test_kernel_on_device.py."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tta_server
from tests.support.references import MODELS
from tta_server.backends import BACKENDS, RunOptions
from tta_server.backends.cuda.driver import count_devices
from tta_server.backends.onnxruntime import OnnxRuntimeBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(count_devices() == 0, reason="there is no CUDA device")]

SIDES = {"cifar10": 32, "clothing": 128, "mouse": 128, "nuclei": 64}
ASCENDING = (1, 2, 4, 8, 16)
ORDERS = {"ascending": ASCENDING + ASCENDING, "descending": ASCENDING[::-1] * 2, "mixed": (8, 1, 16, 2, 8, 4, 1, 16)}
EXACT, HALF = 1e-4, 0.03
ALL: dict[str, Any] = {"budget_ms": 10_000, "min_views": "all", "stop": "all"}
SAMPLED = ["identity", {"rotate": 7}, ["hflip", {"zoom": 1.2}], {"shift": [1.5, 2]}, {"contrast": 1.3}, {"hue": 20}]


def batch(rows: int, side: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 3, side, side), np.float32)


def check_orders(backend: Any, name: str, rows: tuple[int, ...], tolerance: float) -> None:
    """Every run gives what the CPU gives, whichever sizes ran before."""
    here = OnnxRuntimeBackend(MODELS / name / "1" / "model.onnx")
    for n in rows:
        given = batch(n, SIDES[name])
        (expected,) = here.infer(given).values()
        (found,) = backend.infer(given).values()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SIDES)
def test_onnx_runtime_gives_the_same_in_any_order_of_sizes(name: str, order: str) -> None:
    path = MODELS / name / "1" / "model.onnx"
    backend = BACKENDS["onnxruntime"](path, RunOptions(device="cuda:0", max_batch=16))
    assert "CUDA graphs" in backend.where
    check_orders(backend, name, ORDERS[order], EXACT)
    backend.close()


@pytest.mark.parametrize("precision", ["exact", "fp16"])
@pytest.mark.parametrize("name", ["cifar10", "mouse"])
def test_torch_gives_the_same_in_any_order_of_sizes(tmp_path: Path, name: str, precision: str) -> None:
    options = RunOptions(device="cuda:0", max_batch=16, precision=precision)
    backend = BACKENDS["torch"](exported(tmp_path, name), options)
    assert backend.device == "cuda:0"
    check_orders(backend, name, (8, 1, 16, 1, 8), EXACT if precision == "exact" else HALF)
    backend.close()


def exported(folder: Path, name: str) -> Path:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from tests.support.torch_models import OnnxModule, export

    free = (2, 3) if name != "cifar10" else ()
    module = OnnxModule(MODELS / name / "1" / "model.onnx")
    return export(module, folder / "model.pt2", torch.rand(2, 3, SIDES[name], SIDES[name]), free)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_server_answers_as_on_the_cpu_with_views_made_on_the_device(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "clothing"
    shutil.copytree(MODELS / "clothing", folder)
    (folder / "calibration.json").unlink()
    if name == "torch":
        exported(folder / "1", "clothing")
    config = yaml.safe_load((folder / "tta.yaml").read_text("utf-8"))
    config["backend"] = {"name": name, "device": "cuda", "max_batch": 16}
    (folder / "tta.yaml").write_text(yaml.safe_dump(config))
    (sample,) = folder.glob("sample.*")
    with tta_server.load(MODELS / "clothing", 1) as here, tta_server.load(folder, 1) as there:
        assert there.model.pipeline is not None
        for policy in (None, SAMPLED):
            options = ALL | ({"policy": policy} if policy else {}) | {"include": ["probabilities"]}
            expected, found = (model.predict(sample, **options).prediction for model in (here, there))
            wanted, given = (np.array(answer["probabilities"]) for answer in (expected, found))
            np.testing.assert_allclose(given, wanted, rtol=0, atol=EXACT)
