"""An exported ensemble, run step by step, answers as the model in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import tta_server
from tests.support.configs import CLASSIFICATION, changed
from tests.support.ensembles import Ensemble, export
from tests.support.graphed import check_close, with_graphs
from tests.support.onnx_models import classifier, graph, write_model
from tests.support.patterns import noise
from tests.support.references import MODELS
from tta_server.errors import BackendFailed, InvalidInput
from tta_server.repository.loader import load_model
from tta_server.serving.ensemble import EnsembleImage
from tta_server.views.geometry import Size

TOLERANCE = 1e-6
SAMPLES = [("clothing", None), ("cifar10", None), ("nuclei-count", None), ("mouse", None), ("nuclei", None)]
SAMPLES += [("bloodcells", None), ("clothing", "ten_crop"), ("nuclei", '["identity", {"rotate": 9}, {"scale": 1.25}]')]


def ensemble_of(folder: Path, to: Path) -> Ensemble:
    export(folder, to)
    return Ensemble(to, f"{folder.name}_tta")


def ask(ensemble: Ensemble, folder: Path, image: Any, policy: str | None = None, rows: int = 64) -> EnsembleImage:
    made = EnsembleImage(load_model(folder), image, policy, rows)
    for request in made.requests():
        assert len(request.entries) <= rows
        outputs = ensemble.infer(request.inputs)
        made.add(request, {name: outputs[name] for name in request.outputs})
    return made


@pytest.mark.parametrize(("name", "policy"), SAMPLES)
@pytest.mark.parametrize("rows", [64, 3])
def test_results_equal_those_of_this_process(tmp_path: Path, name: str, policy: str | None, rows: int) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    options = {"stop": "all", "min_views": "all"} | ({"policy": policy} if policy else {})
    with tta_server.load(with_graphs(tmp_path / "graph", MODELS / name), 1) as model:
        expected = model.predict(sample, **options).result
    ensemble = ensemble_of(MODELS / name, tmp_path / "triton")
    found = ask(ensemble, MODELS / name, sample.read_bytes(), policy, rows)
    check_close(expected, found.result(), TOLERANCE)
    assert found.left_out == []


def test_heat_maps_are_summed(tmp_path: Path) -> None:
    policy = '["identity", "hflip", {"rotate": 9}]'
    folder = with_graphs(tmp_path / "source", MODELS / "mouse", merge="mean_heatmaps")
    (sample,) = folder.glob("sample.*")
    with tta_server.load(folder, 1) as model:
        expected = model.predict(sample, stop="all", min_views="all", policy=policy).result
    ensemble = ensemble_of(folder, tmp_path / "triton")
    check_close(expected, ask(ensemble, folder, sample.read_bytes(), policy, 2).result(), TOLERANCE)


def test_pixels_and_a_file_are_alike(tmp_path: Path) -> None:
    ensemble = ensemble_of(MODELS / "cifar10", tmp_path)
    file = MODELS / "cifar10" / "sample.png"
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    some, others = (ask(ensemble, MODELS / "cifar10", image).result() for image in (file.read_bytes(), pixels))
    check_close(some, others, 0)


def tiny(folder: Path, model: Any, **keys: Any) -> Path:
    sized = {"size": [8, 8], "resize": "exact", "scale": 255}
    return write_model(folder / "tiny", model, changed(CLASSIFICATION, input=sized, **keys))


def test_a_fixed_batch_takes_one_row_a_request(tmp_path: Path) -> None:
    folder = tiny(tmp_path, classifier((1, 3, 8, 8)), policy="d4", symmetries=["hflip", "rot90", "transpose"])
    image = noise(Size(9, 9), seed=0)
    with tta_server.load(with_graphs(tmp_path / "graph", folder), 1) as model:
        expected = model.predict(image, stop="all", min_views="all").result
    found = ask(ensemble_of(folder, tmp_path / "out"), folder, image, rows=1)
    check_close(expected, found.result(), TOLERANCE)


def test_a_number_a_row_without_an_axis_is_reshaped(tmp_path: Path) -> None:
    """(B,), which `reshape` in the config makes (B, 1)."""
    nodes = [onnx.helper.make_node("ReduceMean", ["image"], ["age"], axes=[1, 2, 3], keepdims=0)]
    declared = [onnx.helper.make_tensor_value_info("age", onnx.TensorProto.FLOAT, ["n"])]
    config = {
        "task": "regression",
        "labels": ["age"],
        "input": {"size": [8, 8], "resize": "exact", "scale": 255},
        "output": {"kind": "values"},
        "policy": ["identity", "hflip"],
        "symmetries": ["hflip"],
    }
    folder = write_model(tmp_path / "ages", graph(nodes, ("n", 3, 8, 8), "float32", declared), config)
    image = noise(Size(9, 9), seed=0)
    with tta_server.load(with_graphs(tmp_path / "graph", folder), 1) as model:
        expected = model.predict(image, stop="all", min_views="all").result
    check_close(expected, ask(ensemble_of(folder, tmp_path / "out"), folder, image).result(), TOLERANCE)


@pytest.mark.parametrize("merge", ["mean_probabilities", "max"])
def test_views_that_are_not_sound_are_left_out(tmp_path: Path, merge: str) -> None:
    """As sums, and as rows."""
    folder = tiny(tmp_path, classifier(), policy=["identity", "hflip"], symmetries=["hflip"], merge=merge)
    made = EnsembleImage(load_model(folder), noise(Size(9, 9), seed=0))
    ensemble = ensemble_of(folder, tmp_path / "out")
    (request,) = made.requests()
    outputs = dict(ensemble.infer(request.inputs))
    if merge == "max":
        outputs["scores"] = np.full_like(outputs["scores"], np.nan)
    else:
        outputs["sound"] = np.zeros_like(outputs["sound"])
    made.add(request, outputs)
    assert len(made.left_out) == 2
    with pytest.raises(BackendFailed, match="no view has an output without NaN and infinity"):
        made.result()


def test_sums_of_tiles_are_refused(tmp_path: Path) -> None:
    sized = {"size": "free", "multiple": 16, "color": "RGB", "scale": 255, "max_size": 256, "tile": 256}
    model = load_model(with_graphs(tmp_path, MODELS / "nuclei", input=sized))
    with pytest.raises(InvalidInput, match="4 tiles, and the ensemble sums whole images only; send a smaller image"):
        EnsembleImage(model, noise(Size(300, 300), seed=0))
