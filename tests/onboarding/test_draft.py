"""The text of a tta.yaml reads as the values that were concluded, whatever they and their sources hold."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tta_server.errors import ConfigError
from tta_server.onboarding.choices import Choice
from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.draft import INLINE, draft, embeddable
from tta_server.onboarding.evidence import Fact

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)
KEYS = st.sampled_from(["task", "input.size", "input.mean", "output.kind", "output.rows", "policy", "limits"])


@given(st.dictionaries(KEYS, VALUES), st.text())
@example({"policy": "two\nlines", "input.size": ["a\n", "# b"]}, "a\nsource: x")
def test_any_value_is_read_back(values, source: str) -> None:
    found = Conclusion({key: Fact(key, value, source) for key, value in values.items()})
    read = yaml.safe_load(draft(found).text)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        assert (read[section] if section else read)[name] == value


def test_every_line_has_its_evidence() -> None:
    facts = [Fact("task", "detection", "a"), Fact("input.size", [2, 3], "b"), Fact("output.rows", "y", "c")]
    text = draft(Conclusion({fact.key: fact for fact in facts})).text
    assert "task: detection  # a\ninput:\n  size: [2, 3]  # b\noutput:\n  rows: y  # c\n" in text


def test_open_choices_are_comments() -> None:
    choices = [Choice("task", "x | y"), Choice("output.kind", "z")]
    text = draft(Conclusion({}, choices)).text
    assert "# ? task:  # x | y\n" in text
    assert "output:\n  # ? kind:  # z\n" in text
    assert yaml.safe_load(text) == {"input": {}, "output": None}


def test_many_labels_go_into_a_file() -> None:
    few, many = ([str(i) for i in range(n)] for n in (INLINE, INLINE + 1))
    inline, beside = (draft(Conclusion({"labels": Fact("labels", names, "s")})) for names in (few, many))
    assert (yaml.safe_load(inline.text)["labels"], inline.labels) == (few, ())
    assert (yaml.safe_load(beside.text)["labels"], beside.labels) == ("labels.txt", many)


def test_what_is_embedded_holds_all_labels() -> None:
    many = [str(i) for i in range(1000)]
    made = embeddable(Conclusion({"labels": Fact("labels", many, "s"), "policy": Fact("policy", "hflip", "s")}))
    assert (yaml.safe_load(made.text)["labels"], made.labels) == (many, ())


@pytest.mark.parametrize(("key", "value"), [("labels", "names"), ("policy", "mine.yaml"), ("policy", "mine.yml")])
def test_a_files_name_is_not_embedded(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--embed: {key} is '{value}', a file's name"):
        embeddable(Conclusion({key: Fact(key, value, "s")}))


def test_an_output_without_keys_is_empty(tmp_path: Path) -> None:
    assert yaml.safe_load(draft(Conclusion()).text)["output"] == {}
