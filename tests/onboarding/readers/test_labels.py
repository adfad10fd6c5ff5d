"""Names as tta.yaml takes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.model_files import model_file
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.evidence import Fact, Note
from tta_server.onboarding.readers.labels import label_facts, numbered


def test_repeated_and_empty_names_get_their_number() -> None:
    note, fact = label_facts(["crane", "a\n b", "", "crane"], "names")
    assert fact == Fact("labels", ["crane (0)", "a b", "class (2)", "crane (3)"], "names")
    assert isinstance(note, Note)
    assert note.sentence.startswith("names: 3 names are empty or repeated")


def test_unique_names_stay() -> None:
    assert list(label_facts(["a", "b"], "names")) == [Fact("labels", ["a", "b"], "names")]


@given(st.lists(st.sampled_from(["a", "a (0)", "a (1)", "a (0) (0)", "", "class (0)", "b"])))
def test_labels_are_unique(names) -> None:
    *_, fact = label_facts(names, "names")
    assert len(set(fact.value)) == len(names)


def test_names_of_paddleocr() -> None:
    """As many as the output has classes; a dictionary of characters is none."""
    file = model_file(character="0\n90\n180")
    assert conclude(file, Given(), []).facts["labels"].value == ["0", "90", "180"]
    assert "labels" not in conclude(model_file(character="a\nb"), Given(), []).facts


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"1": "b", "0": "a"}, ["a", "b"]),
        ({0: "a"}, ["a"]),
        (["a"], ["a"]),
        ({"1": "b"}, None),
        ({"x": "b"}, None),
        ({None: "b"}, None),
        ("ab", None),
        (None, None),
    ],
)
def test_numbers_and_names(found, names) -> None:
    assert numbered(found) == names
