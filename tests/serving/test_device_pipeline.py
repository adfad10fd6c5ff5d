"""Models on a device answer as on the CPU: the real path, with the driver's stub and ONNX Runtime's CPU provider."""

import shutil
from pathlib import Path

import pytest
import yaml

import tta_server
from tests.serving.test_graph_executor import ALL, OPTIONS, SLOW
from tests.support.cuda import stub_driver, stub_library
from tests.support.graphed import check_alike
from tests.support.references import MODELS
from tests.support.stub_device import open_stub
from tta_server.backends import BACKENDS

__all__ = ["stub_driver", "stub_library"]


@pytest.fixture
def stub_device(stub_driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "onnxruntime", open_stub)


def on_device(folder: Path, name: str, **keys) -> Path:
    """A copy of a bundled model's folder whose tta.yaml names a device."""
    made = folder / name
    shutil.copytree(MODELS / name, made)
    config = yaml.safe_load((made / "tta.yaml").read_text("utf-8")) | {"backend": {"device": "cuda", **keys}}
    (made / "tta.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return made


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in OPTIONS]
)
def test_a_bundled_model_answers_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub_driver, name: str) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    with tta_server.load(MODELS / name, 1) as local:
        monkeypatch.setitem(BACKENDS, "onnxruntime", open_stub)
        with tta_server.load(on_device(tmp_path, name, max_batch=8), 1) as device:
            assert device.model.backend.device == "cpu:0"
            for options in OPTIONS[name]:
                check_alike(*(model.predict(sample, **ALL, **options) for model in (local, device)))


@pytest.mark.parametrize("name", ["clothing", "mouse"])
def test_sums_that_the_device_can_not_run_are_made_on_the_cpu_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stub_driver, name: str
) -> None:
    def refuse(*_):
        raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")

    (sample,) = (MODELS / name).glob("sample.*")
    options = {**ALL, "merge": {"clothing": "vote", "mouse": "mean_heatmaps"}[name]}
    with tta_server.load(MODELS / name, 1) as local:
        monkeypatch.setitem(BACKENDS, "onnxruntime", open_stub)
        monkeypatch.setattr("tta_server.repository.device_pipeline.DeviceGraph", refuse)
        with tta_server.load(on_device(tmp_path, name, max_batch=8), 1) as device:
            check_alike(*(model.predict(sample, **options) for model in (local, device)))
    assert "outputs are summed on the CPU, for the device can't run the graph" in caplog.text
