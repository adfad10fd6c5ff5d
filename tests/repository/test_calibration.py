"""The calibration file: the model and policy that it is valid for, and its use by stop epsilon."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.external import PLACES, write_scorer
from tests.support.onnx_models import classifier, write_model
from tests.support.references import MODELS
from tta_server.errors import ConfigError, InvalidInput
from tta_server.repository.calibration import FILE, Calibration, Threshold, write_calibration
from tta_server.repository.loader import load_model, load_uncalibrated, model_digest
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import Confident
from tta_server.serving.plan import Options, make_plan

CONFIG = {
    "task": "classification",
    "labels": ["red", "green", "blue"],
    "input": {"size": [8, 8], "scale": 1},
    "output": {"kind": "logits"},
    "policy": ["identity", "hflip", {"shift": [1, 0]}],
    "symmetries": ["hflip"],
}


def threshold(epsilon: float, value: float) -> Threshold:
    return Threshold(epsilon=epsilon, threshold=value, disagreements=1, bound=epsilon / 2, mean_views=1.5)


def calibration(**changes: Any) -> Calibration:
    """Return a calibration for three views, with thresholds 0.99 for epsilon 0.001, 0.9 for 0.01, 0.5 for 0.1."""
    values: dict[str, Any] = {
        "model": "sha256:m",
        "policy": "sha256:p",
        "merge": "mean_probabilities",
        "images": 5000,
        "views": 3,
        "confidence": 0.95,
        "thresholds": (threshold(0.001, 0.99), threshold(0.01, 0.9), threshold(0.1, 0.5)),
        "disagreement": (0.1, 0.05, 0.0),
        "edges": (0.5, 0.9),
        "flips": ((0.4, 0.1, 0.01), (0.3, 0.05, 0.0), (0.0, 0.0, 0.0)),
    }
    return Calibration(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny", classifier(), CONFIG)


def calibrated(folder: Path, **changes: Any) -> Path:
    """Write a calibration into the folder that fits the model, apart from `changes`."""
    model = load_uncalibrated(folder)
    fits = {"model": model_digest(folder, model), "policy": model.policy.digest}
    write_calibration(folder / FILE, calibration(**{**fits, **changes}))
    return folder


def rule(model: Model, **options: Any) -> Any:
    return make_plan(model, Options(**options)).rule


# ---- the file ----


def test_a_written_calibration_is_read_back(folder: Path) -> None:
    model = load_model(calibrated(folder))
    assert model.calibration == calibration(model=model.calibration.model, policy=model.policy.digest)  # type: ignore[union-attr]


def test_a_row_of_numbers_is_one_line(tmp_path: Path) -> None:
    write_calibration(tmp_path / FILE, calibration())
    lines = (tmp_path / FILE).read_text().splitlines()
    assert '  "edges": [0.5, 0.9],' in lines
    assert "    [0.4, 0.1, 0.01]," in lines


@pytest.mark.parametrize(("key", "named"), [("model", "another model file"), ("policy", "another policy")])
def test_a_calibration_for_something_else_is_refused_at_load(folder: Path, key: str, named: str) -> None:
    calibrated(folder, **{key: "sha256:" + "0" * 64})
    with pytest.raises(
        ConfigError, match=f"{FILE} was made for {named}.*run `tta-server calibrate` again, or delete the file"
    ):
        load_model(folder)


def test_a_calibration_of_a_model_file_that_changed_is_refused(folder: Path) -> None:
    calibrated(folder)
    other = write_model(folder.parent / "other", classifier(outputs=("points",)), CONFIG)
    shutil.copy(other / "1" / "model.onnx", folder / "1" / "model.onnx")
    with pytest.raises(ConfigError, match="another model file"):
        load_model(folder)


@pytest.mark.parametrize("place", PLACES)
def test_a_calibration_of_external_data_that_changed_is_refused(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "tiny"
    write_scorer(folder, [3, 1, 2], place)
    model = (folder / "1" / "model.onnx").read_bytes()
    calibrated(folder, views=1, disagreement=(0.0,), flips=((0.0, 0.0, 0.0),))
    assert load_model(folder).calibration is not None
    write_scorer(folder, [-3, 1, 2], place)
    assert (folder / "1" / "model.onnx").read_bytes() == model
    with pytest.raises(ConfigError, match="another model file"):
        load_model(folder)


def test_the_digest_of_a_model_without_external_data_is_that_of_its_file_and_keys() -> None:
    """So the calibrations of bundled models stay valid."""
    folder = MODELS / "clothing"
    model = load_model(folder)
    keys = model.config.model_dump_json(include={"input", "output"}, exclude_defaults=True)
    expected = hashlib.sha256((folder / "1" / "model.onnx").read_bytes() + keys.encode()).hexdigest()
    assert model_digest(folder, model) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "the file is not JSON"),
        ("{}", "model is missing"),
        ('{"nonsense": 1}', "model is missing"),
        (calibration().model_dump_json().replace('"views":3', '"views":4'), "should have one for each of the 4 views"),
        (calibration().model_dump_json().replace("[0.5,0.9]", "[0.9,0.5]"), "edges should be in ascending order"),
        (calibration().model_dump_json().replace('"version":1', '"version":2'), "version"),
        (calibration().model_dump_json().replace('{"version"', '{"extra":1,"version"'), "extra"),
    ],
)
def test_a_broken_file_is_refused_naming_the_key(folder: Path, written: str, sentence: str) -> None:
    (folder / FILE).write_text(written)
    with pytest.raises(ConfigError, match=FILE) as refused:
        load_model(folder)
    assert sentence in str(refused.value)


def test_without_the_file_there_is_no_calibration(folder: Path) -> None:
    assert load_model(folder).calibration is None


# ---- stop epsilon ----


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.001, 0.99), (0.005, 0.99), (0.01, 0.9), (0.09, 0.9), (0.1, 0.5), (0.9, 0.5)]
)
def test_an_epsilon_uses_the_largest_calibrated_one_up_to_it(folder: Path, epsilon: float, expected: float) -> None:
    model = load_model(calibrated(folder))
    assert rule(model, stop=f'{{"epsilon": {epsilon}}}') == Confident(expected)


def test_an_epsilon_below_all_calibrated_ones_is_refused_naming_them(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"stop epsilon 0.0005 is below every calibrated value \(0.001, 0.01, 0.1\)"):
        rule(load_model(calibrated(folder)), stop='{"epsilon": 0.0005}')


@pytest.mark.parametrize("other", [{"policy": "hflip"}, {"merge": "vote"}])
def test_another_policy_or_merge_was_not_calibrated(folder: Path, other: dict[str, str]) -> None:
    model = load_model(calibrated(folder))
    with pytest.raises(InvalidInput, match="only for tiny's own policy with merge mean_probabilities"):
        rule(model, stop='{"epsilon": 0.01}', **other)
    assert make_plan(model, Options(**other)).calibration is None


def test_the_models_own_views_may_be_listed(folder: Path) -> None:
    model = load_model(calibrated(folder))
    assert rule(model, stop='{"epsilon": 0.01}', policy='["identity","hflip",{"shift":[1,0]}]') == Confident(0.9)


def test_the_error_for_a_missing_calibration_names_the_command(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="run `tta-server calibrate tiny --data DIR`"):
        rule(load_model(folder), stop='{"epsilon": 0.01}')


def test_a_model_whose_stop_rule_needs_a_calibration_is_refused_without_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", classifier(), {**CONFIG, "stop": {"epsilon": 0.01}})
    with pytest.raises(ConfigError, match="stop: stop epsilon needs a calibration"):
        load_model(folder)
    assert rule(load_model(calibrated(folder))) == Confident(0.9)


def test_segmentation_has_no_stop_epsilon() -> None:
    with pytest.raises(InvalidInput, match="not available for segmentation; available: all, certain, open"):
        rule(load_model(MODELS / "nuclei"), stop='{"epsilon": 0.01}')


# ---- expected gain of further views ----


def test_the_expected_gain_is_the_chance_of_a_change_per_remaining_view(folder: Path) -> None:
    plan = make_plan(load_model(calibrated(folder)), Options())
    assert plan.expected_gain(0.2, 1) == 0.4 / 2
    assert plan.expected_gain(0.5, 1) == 0.1 / 2
    assert plan.expected_gain(0.95, 2) == 0.0
    assert plan.expected_gain(0.2, 3) == 0.0


def test_without_a_calibration_a_smaller_margin_has_a_larger_expected_gain(folder: Path) -> None:
    plan = make_plan(load_model(folder), Options())
    assert plan.expected_gain(0.2, 1) > plan.expected_gain(0.3, 1)
