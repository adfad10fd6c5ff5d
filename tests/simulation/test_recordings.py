"""The files that a scenario names: traces, margins, calibrations."""

from pathlib import Path
from typing import Any

import pytest

from tests.simulation.scenarios import MARGINS, mistake, requests


def trace(folder: Path, text: str) -> dict[str, Any]:
    (folder / "trace.csv").write_text(text)
    return {"traffic_arrivals": {"trace": "trace.csv"}, "duration_s": None}


def test_a_trace_is_sorted_starts_at_zero_and_may_leave_values_out(tmp_path: Path) -> None:
    changes = trace(tmp_path, "seconds,budget_ms,views\n1000.5,,\n1000,50,\n1002,,3\n")
    found = requests(tmp_path, 2.0, **changes)
    assert [request.at for request in found] == [0, 0.25, 1]
    assert [(request.spec.budget, request.spec.views) for request in found] == [(0.05, 8), (0.1, 8), (0.1, 3)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "second\n1\n",
            "trace.csv: has no column seconds; its first line names them: seconds, model, budget_ms, views",
        ),
        ("seconds,budget\n1,2\n", "trace.csv: unknown column budget; known: seconds, model, budget_ms, views"),
        ("seconds\n1\nsoon\n", "trace.csv: line 3: seconds is 'soon'; it should be a number"),
        ("seconds,views\n,1\n", "trace.csv: line 2: seconds is missing"),
        ("seconds,views\n1,0\n", "trace.csv: line 2: views is '0'; it should be a whole number from 1 to 512"),
        ("seconds\n1,2\n", "trace.csv: line 2 has more values than there are columns"),
        ("seconds\n", "trace.csv: holds no arrivals"),
        ("seconds,model\n1,other\n", "trace.csv: model 'other' is not in the scenario; known: m"),
    ],
)
def test_a_mistake_in_a_trace_is_one_sentence_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in mistake(tmp_path, **trace(tmp_path, text))


def test_margins_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    found = requests(tmp_path, m_margins="margins.csv", traffic_views=2)
    assert {tuple(request.image.margins) for request in found} == {(0.2, 0.4), (0.9, 0.95)}
    assert {tuple(request.image.labels) for request in found} == {(4, 3), (1, 1)}


def test_margins_of_too_few_views_are_refused(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    assert "image 0 has no line for 3 views; the traffic requests 8" in mistake(tmp_path, m_margins="margins.csv")


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{}")
    assert "calibration.json: is no calibration" in mistake(tmp_path, m_calibration="calibration.json")
