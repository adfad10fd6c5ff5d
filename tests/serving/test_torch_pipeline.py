"""Views made in the memory of a torch model, by the real kernel's source: the driver's stub and torch on the CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.cuda import stub_driver, stub_library  # noqa: F401 - fixtures
from tests.support.graphed import job_for, probabilities
from tests.support.jobs import run
from tests.support.references import MODELS
from tests.support.stub_device import StubMemory
from tta_server.backends.cuda.driver import open_device
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.repository.loader import load_model
from tta_server.repository.staging import Staging
from tta_server.repository.view_kernel import kernel_constants
from tta_server.views.geometry import Size

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.support.torch_models import OnnxModule, export  # noqa: E402 - needs torch
from tta_server.repository.torch_pipeline import TorchPipeline  # noqa: E402


@pytest.mark.usefixtures("stub_driver")
def test_a_torch_model_whose_views_are_made_on_the_device_answers_as_the_bundled_one(tmp_path: Path) -> None:
    bundled = load_model(MODELS / "clothing")
    folder = tmp_path / "clothing"
    shutil.copytree(MODELS / "clothing", folder)
    config = yaml.safe_load((folder / "tta.yaml").read_text("utf-8")) | {"backend": {"name": "torch"}}
    (folder / "tta.yaml").write_text(yaml.safe_dump(config))
    (folder / "calibration.json").unlink()
    export(OnnxModule(folder / "1" / "model.onnx"), folder / "1" / "model.pt2", torch.rand(2, 3, 128, 128))
    model = load_model(folder)
    constants = kernel_constants(model.preprocessing)
    memory = StubMemory(open_device(0))
    staging = Staging(model.preprocessing, memory, ViewKernel(memory.device, constants))
    model = replace(model, pipeline=TorchPipeline(model.backend, staging))
    found = []
    for each in (bundled, model):
        jobs = [job_for(each, size, seed, include=frozenset(["probabilities"])) for seed, size in enumerate(SIZES)]
        run([(job, view) for view in range(4) for job in jobs])
        found.append([probabilities(job) for job in jobs])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)


SIZES = (Size(160, 131), Size(90, 200), Size(1600, 1200))
