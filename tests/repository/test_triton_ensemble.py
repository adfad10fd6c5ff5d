"""An ensemble in a Triton server fits tta.yaml, or is refused with what differs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.ensembles import export, read_config
from tests.support.references import MODELS
from tests.support.remote import declared
from tta_server.backends.triton import EnsembleInfo, TensorInfo
from tta_server.compiled.ensembles import SUMS, VIEWS
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.repository.triton_ensemble import check_ensemble, check_outputs
from tta_server.tasks import ResponseSpec
from tta_server.tasks.sums import SumSpec


def described(repository: Path, name: str) -> EnsembleInfo:
    config = read_config(repository, f"{name}_tta")
    inputs, outputs = (
        {each.name: TensorInfo(*declared(each)) for each in part} for part in (config.input, config.output)
    )
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    return EnsembleInfo(name, "", inputs, outputs, parameters)


def check(model: Model, info: EnsembleInfo, merge: str | None = None) -> SumSpec | None:
    spec = check_ensemble(info, model.preprocessing, model.task, merge or model.merge)
    check_outputs(info, model.backend.signature.outputs, spec)
    return spec


@pytest.mark.parametrize("name", ["bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count"])
def test_what_is_exported_for_a_model_fits_it(tmp_path: Path, name: str) -> None:
    model = load_model(MODELS / name)
    export(MODELS / name, tmp_path)
    assert check(model, described(tmp_path, name)) == model.task.sums(model.merge, ResponseSpec())


@pytest.fixture(scope="module")
def clothing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, EnsembleInfo]:
    folder = tmp_path_factory.mktemp("repository")
    export(MODELS / "clothing", folder)
    return load_model(MODELS / "clothing"), described(folder, "clothing")


def stating(info: EnsembleInfo, name: str, **values: Any) -> EnsembleInfo:
    found = json.loads(info.parameters[name]) | values
    return replace(info, parameters={**info.parameters, name: json.dumps(found)})


def refusal(clothing: tuple[Model, EnsembleInfo], info: EnsembleInfo, merge: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check(clothing[0], info, merge)
    assert str(caught.value).endswith("run `tta-server export-triton` again with this tta.yaml, or set views: local")
    return str(caught.value)


def test_another_merge_is_refused_but_of_one_that_gives_rows(clothing: tuple[Model, EnsembleInfo]) -> None:
    _, info = clothing
    assert 'made for score "softmax", and this tta.yaml needs "top_class" (merge vote)' in refusal(
        clothing, info, "vote"
    )
    assert 'sums "softmax", and merge max of this tta.yaml needs each view\'s output' in refusal(clothing, info, "max")
    outputs = {name: TensorInfo("FP32", (-1, 10)) for name in clothing[0].backend.signature.outputs}
    rows = replace(info, parameters={**info.parameters, SUMS: "{}"}, outputs=outputs)
    rows = replace(rows, inputs={name: each for name, each in info.inputs.items() if name not in ("weight", "owner")})
    assert check(clothing[0], rows, "vote") is None
    assert "without logits of the model in it" in refusal(clothing, replace(rows, outputs={}))


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (VIEWS, {"mean": [0.25]}, "made for mean [0.25], and this tta.yaml needs "),
        (VIEWS, {"letterbox_fill": 114}, "made for letterbox_fill 114, and this tta.yaml needs null"),
        (VIEWS, {"columns": "image=0 of 1"}, "an ensemble that another version of tta-server exported"),
        (
            SUMS,
            {"score": "median"},
            'made for score "median", and this tta.yaml needs "softmax" (merge mean_probabilities)',
        ),
    ],
)
def test_what_differs_is_named(
    clothing: tuple[Model, EnsembleInfo], name: str, values: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(clothing, stating(clothing[1], name, **values))


def test_an_ensemble_that_states_nothing(clothing: tuple[Model, EnsembleInfo]) -> None:
    for parameters in ({}, {VIEWS: "not json", SUMS: "{}"}, {VIEWS: "[]", SUMS: "{}"}):
        info = replace(clothing[1], parameters=parameters)
        assert "is an ensemble that does not state what it was made for" in refusal(clothing, info)


def test_other_tensors(clothing: tuple[Model, EnsembleInfo]) -> None:
    _, info = clothing
    wider = replace(info, inputs={**info.inputs, "rows": TensorInfo("FP32", (-1, 30))})
    assert "rows FP32 [-1, 30]" in refusal(clothing, wider)
    assert "rows FP32 [-1, 28]" in refusal(clothing, wider)
    typed = replace(info, outputs={**info.outputs, "sound": TensorInfo("UINT8", (-1,))})
    assert "with the outputs sound UINT8 [-1], total FP32" in refusal(clothing, typed)
