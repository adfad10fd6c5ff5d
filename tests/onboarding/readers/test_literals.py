"""Python literals of bounded size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.onboarding.readers.literals import DEEPEST, LONGEST, read_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [("32", 32), ("[640, 640]", [640, 640]), ("{0: 'a', 1: \"b's\"}", {0: "a", 1: "b's"}), (" True", True)],
)
def test_values(text: str, value) -> None:
    assert read_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "open('x')", "__import__('os')", "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "-" * 100_000 + "1",
        "1" * (LONGEST + 1), "\0", "{[]: 1}",
    ],
    ids=["empty", "call", "import", "deep", "signs", "long", "zero", "key"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    assert read_literal(text) is None


@given(st.text())
def test_any_text_is_read_or_not(text: str) -> None:
    read_literal(text)
