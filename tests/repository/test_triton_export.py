"""Exported Triton repositories are valid, and write over nothing else."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.configs import CLASSIFICATION, changed
from tests.support.ensembles import open_model, read_config
from tests.support.external import CONFIG, external, scorer, weights
from tests.support.onnx_models import classifier, graph, write_model
from tests.support.references import MODELS
from tests.tasks.boxes.test_heads_served import folder as heads_folder
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.repository.model import Observed
from tta_server.repository.triton_export import check_target, triton_models, write_models
from tta_server.serving.ensemble import ensemble_plan


def exported(folder: Path, to: Path, can_batch: bool = True) -> list[str]:
    """The names of the models written into a folder for a model folder."""
    model = load_model(folder)
    model.observe(Observed(can_batch=can_batch))
    found = triton_models(model, folder, ensemble_plan(model).sums)
    write_models(to, model.name, found)
    return [each.name for each in found]


@pytest.mark.parametrize("name", ["bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count"])
def test_every_bundled_model(tmp_path: Path, name: str) -> None:
    """Files are valid, configs are those of the files, the model's own file is untouched."""
    names = exported(MODELS / name, tmp_path)
    middle = [] if name in ("bloodcells", "mouse") else [f"{name}_tail"]
    assert names == [f"{name}_front", name, *middle, f"{name}_tta"]
    for each in names[:-1]:
        onnx.checker.check_model(onnx.load(tmp_path / each / "1" / "model.onnx"), full_check=True)
        open_model(tmp_path, each)
        assert read_config(tmp_path, each).name == each
    assert [step.model_name for step in read_config(tmp_path, names[-1]).ensemble_scheduling.step] == names[:-1]
    assert (tmp_path / names[-1] / "1").is_dir()
    own = MODELS / name / "1" / "model.onnx"
    assert (tmp_path / name / "1" / "model.onnx").read_bytes() == own.read_bytes()
    config = read_config(tmp_path, name)
    assert config.max_batch_size == 64
    assert config.dynamic_batching.preferred_batch_size == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("shape", "can_batch", "rows"), [((1, 3, 8, 8), True, 0), (("n", 3, 8, 8), False, 1)])
def test_a_model_that_takes_one_row_is_not_batched(tmp_path: Path, shape: object, can_batch: bool, rows: int) -> None:
    config = changed(CLASSIFICATION, input={"size": [8, 8], "resize": "exact"})
    folder = write_model(tmp_path / "tiny", classifier(shape), config)
    exported(folder, tmp_path / "out", can_batch)
    found = read_config(tmp_path / "out", "tiny")
    assert found.max_batch_size == rows
    assert not found.HasField("dynamic_batching")


def test_external_data_is_copied(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "large", scorer(external("data/weights.bin")), CONFIG)
    (folder / "1" / "data").mkdir()
    content = weights([1, 2, 3]).tobytes()
    (folder / "1" / "data" / "weights.bin").write_bytes(content)
    exported(folder, tmp_path / "out")
    assert (tmp_path / "out" / "large" / "1" / "data" / "weights.bin").read_bytes() == content
    assert open_model(tmp_path / "out", "large").run(None, {"image": np.ones((1, 3, 64, 64), np.float32)})


def test_a_name_that_triton_does_not_take(tmp_path: Path) -> None:
    folder = tmp_path / "my coats"
    folder.symlink_to(MODELS / "clothing")
    with pytest.raises(ConfigError, match="Triton takes no model of the name 'my coats'; rename the folder"):
        exported(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_named_as_an_input_of_the_ensemble(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("ReduceMean", ["image"], ["rows"], axes=[2, 3], keepdims=0)]
    declared = [onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["n", 3])]
    config = changed(CLASSIFICATION, input={"size": [8, 8], "resize": "exact"}, merge="max")
    folder = write_model(tmp_path / "tiny", graph(nodes, ("n", 3, 8, 8), "float32", declared), config)
    with pytest.raises(ConfigError, match="output rows has the name of an input of the ensemble; rename it"):
        exported(folder, tmp_path / "out")


def test_a_model_without_a_file_here(tmp_path: Path) -> None:
    model = replace(load_model(MODELS / "clothing"), version="7")
    with pytest.raises(ConfigError, match="only a model whose file is here can be exported"):
        triton_models(model, MODELS / "clothing", None)


def test_without_the_onnx_package(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(MODELS / "clothing")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ConfigError, match=r"^an export needs the onnx package: run `pip install 'tta-server\[compile\]'`$"
    ):
        triton_models(model, MODELS / "clothing", None)


def test_lists_of_one_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the outputs have no batch axis, which an ensemble needs"):
        exported(heads_folder(tmp_path, "torchvision"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_targets(tmp_path: Path) -> None:
    check_target(tmp_path / "new", "a", force=False)
    check_target(tmp_path, "a", force=False)
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="is not empty; give another folder, or --force"):
        check_target(tmp_path, "a", force=False)
    check_target(tmp_path, "b", force=True)
    with pytest.raises(ConfigError, match="is no model that was exported"):
        check_target(tmp_path, "a", force=True)
    (tmp_path / "a" / "config.pbtxt").touch()
    check_target(tmp_path, "a", force=True)
    (tmp_path / "a" / "tta.yaml").touch()
    with pytest.raises(ConfigError, match="is no model that was exported"):
        check_target(tmp_path, "a", force=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_target(tmp_path / "a" / "tta.yaml", "a", force=True)


def test_other_models_of_the_folder_stay(tmp_path: Path) -> None:
    exported(MODELS / "clothing", tmp_path)
    (tmp_path / "clothing" / "1" / "old").touch()
    exported(MODELS / "mouse", tmp_path)
    (tmp_path / "mouse_tail").mkdir()
    exported(MODELS / "mouse", tmp_path)
    assert not (tmp_path / "mouse_tail").exists()
    exported(MODELS / "clothing", tmp_path)
    assert not (tmp_path / "clothing" / "1" / "old").exists()
    assert (tmp_path / "mouse_tta" / "config.pbtxt").is_file()
