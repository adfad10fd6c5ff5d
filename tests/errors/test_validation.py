"""For any invalid values, the sentence has no library text, and names the key, what was found, and what is allowed."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.support.onnx_models import classifier, write_model
from tests.support.wording import check_sentence
from tta_server.api.oip.semantics import TTA_PARAMETERS, read_parameters
from tta_server.cli.sources import flag, read_settings
from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.errors.validation import explain, explain_value
from tta_server.repository.config import ModelConfig, read_config
from tta_server.repository.loader import load_model
from tta_server.serving.options import PredictQuery, QuoteQuery, read_options, validate
from tta_server.settings import Settings
from tta_server.tasks import TASKS

TEXT = st.text(st.characters(categories=["Lu", "Nd", "Po", "Zs", "Cc", "Cs"]), max_size=80)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | TEXT
    | st.sampled_from(["", " ", "-1", "1.5", "nan", "inf", "-inf", "1e999", "all", "[", "{}", "{", "[1]", "9" * 5000])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
KEYS = sorted({*QuoteQuery.model_fields, "unknown", "max-views", "", "é"})


def sentence_of(call: Any) -> str | None:
    """The error's sentence, None without one."""
    try:
        call()
    except (InvalidInput, ConfigError) as error:
        return check_sentence(str(error))
    return None


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_no_option_of_python_gets_library_text(values: dict[str, Any]) -> None:
    sentence_of(lambda: validate(QuoteQuery, values))
    sentence_of(lambda: read_options(values))


@given(st.dictionaries(st.sampled_from(KEYS), TEXT | st.sampled_from(["-1", "1.5", "0", "9" * 5000]), min_size=1))
def test_no_query_gets_library_text(values: dict[str, str]) -> None:
    sentence = sentence_of(lambda: validate(PredictQuery, values))
    assert sentence is None or any(key in sentence for key in values)


@given(
    st.dictionaries(
        st.sampled_from([*TTA_PARAMETERS, "timeout", "priority", "tta_unknown", "other"]),
        st.booleans() | st.integers() | st.floats() | TEXT,
        min_size=1,
    )
)
def test_no_parameter_of_the_protocol_gets_library_text(values: dict[str, Any]) -> None:
    sentence_of(lambda: read_parameters(values))


@given(st.sampled_from(sorted(Settings.model_fields)), SCALARS)
def test_no_setting_gets_library_text(key: str, value: Any) -> None:
    sentence = sentence_of(lambda: read_settings(**{key: value}))
    assert sentence is None or sentence.startswith(flag(key))


SOUND = {
    "task": "classification",
    "labels": ["red", "green", "blue"],
    "input": {"size": [8, 8]},
    "output": {"kind": "logits"},
    "budget": {},
    "limits": {},
}
PLACES = [
    *((key,) for key in (*ModelConfig.model_fields, "unknown")),
    *(("input", key) for key in ("size", "resize", "multiple", "mean", "std", "color", "letterbox_fill", "unknown")),
    *(("budget", key) for key in ("default_ms", "max_ms", "min_views", "unknown")),
    *(("limits", key) for key in ("rotate", "zoom", "shift", "unknown")),
    *(("output", key) for key in ("kind", "threshold", "boxes", "scores", "unknown")),
]


@given(st.sampled_from(sorted(TASKS)), st.sampled_from(PLACES), VALUES)
def test_no_mistake_in_a_config_gets_library_text(
    tmp_path_factory: pytest.TempPathFactory, task: str, place: tuple[str, ...], value: Any
) -> None:
    config = json.loads(json.dumps(SOUND)) | {"task": task}
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path_factory.getbasetemp() / "explain.yaml"
    try:
        path.write_text(yaml.safe_dump(config, allow_unicode=False), "utf-8")
    except ValueError:  # a number of over 4300 digits
        return
    try:
        read_config(path)
    except ConfigError as error:
        for sentence in str(error).split(f"; {path}: "):
            check_sentence(sentence.removeprefix(f"{path}: "))


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=8)] = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    either: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    pair: tuple[int, int] | Literal["free"] = "free"
    rows: dict[Annotated[int, Field(ge=1)], float] = {}
    names: Annotated[list[str], Field(min_length=1, max_length=2)] = ["a"]
    on: bool = False
    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"count": "many"}, "count is 'many'; it should be a whole number from 1 to 8"),
        ({"count": 1.5}, "count is 1.5; it should be a whole number from 1 to 8"),
        ({"count": 0}, "count is 0; it should be a whole number from 1 to 8"),
        ({"count": "9" * 5000}, f"count is '{'9' * 64}...'; it should be a whole number from 1 to 8"),
        ({"share": 1}, "share is 1; it should be a number over 0 and under 1"),
        ({"share": None}, "share is null; it should be a number over 0 and under 1"),
        ({"either": "some"}, "either is 'some'; it should be a whole number of at least 1, or 'all'"),
        ({"either": 0}, "either is 0; it should be a whole number of at least 1, or 'all'"),
        ({"pair": "any"}, "pair is 'any'; it should be a list, or 'free'"),
        ({"pair": [1, "x"]}, "pair.1 is 'x'; it should be a whole number"),
        ({"pair": [1]}, "pair.1 is missing"),
        ({"rows": {"one": 1}}, "rows.one is 'one'; it should be a whole number"),
        ({"rows": {"int": 1}}, "rows.int is 'int'; it should be a whole number"),
        ({"rows": {1: "x"}}, "rows.1 is 'x'; it should be a number"),
        ({"rows": [1]}, "rows is [1]; it should be keys with values"),
        ({"names": []}, "names is []; it should be a list of at least 1"),
        ({"names": {"a": True}}, 'names is {"a": true}; it should be a list'),
        ({"on": "perhaps"}, "on is 'perhaps'; it should be true or false"),
        ({"text": "a"}, "text is 'a'; it should be text of at least 2 characters"),
        ({"text": 5}, "text is 5; it should be text"),
        ({"size": 5}, "unknown key size; known: count, share"),
    ],
)
def test_a_mistake_says_key_found_and_allowed(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Shape.model_validate(values)
    (mistake,) = explain(caught.value, values, Shape)
    assert explain_value(mistake, ["count", "share"]) == sentence


def test_two_mistakes_are_two_sentences() -> None:
    values = {"count": 0, "share": 2}
    with pytest.raises(ValidationError) as caught:
        Shape.model_validate(values)
    assert [mistake.key for mistake in explain(caught.value, values, Shape)] == ["count", "share"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("it's", '"it\'s"'),
        ("x" * 65, f"'{'x' * 64}...'"),
        (None, "null"),
        (True, "true"),
        ({"a": [None, 1.5]}, '{"a": [null, 1.5]}'),
        (float("nan"), "NaN"),
        ([1] * 100, "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ..."),
        (10**5000, "a value too long to be quoted"),
        ("\ud800\n", "'\\ud800\\n'"),
        (Path("a/b"), '"a/b"'),
    ],
    ids=lambda value: shown(value)[:20],
)
def test_a_value_is_quoted_as_json(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_broken_policy_file_gets_no_parser_text(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", classifier(), {**SOUND, "policy": "own.yaml"})
    (folder / "own.yaml").write_text("- {zoom: ")
    with pytest.raises(ConfigError, match=r"policy: own\.yaml is not valid YAML in line 1, column 10"):
        load_model(folder)
