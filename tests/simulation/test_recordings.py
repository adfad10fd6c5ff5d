"""The files that a scenario names: traces, margins, calibrations."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.pools import SPEC, SURE
from tests.simulation.scenarios import MARGINS, mistake, requests, written
from tta_server.errors import ConfigError
from tta_server.simulation.jobs import Request
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.recordings import read_durations
from tta_server.simulation.scenario import read_scenario
from tta_server.simulation.server import SimulatedServer


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


# ---- recorded durations ----

DURATIONS = """seconds,step,views,ms
10,view,1,4
10.5,view,1,4
11,view,1,40
10,view,2,8
10.2,decode,,2
12,finish,,0.1
"""


def test_durations_are_factors_on_the_median_of_their_kind_over_and_over(tmp_path: Path) -> None:
    (tmp_path / "durations.csv").write_text(DURATIONS)
    noise = read_durations(tmp_path / "durations.csv")
    assert [noise.factor("view", now) for now in (0.0, 0.6, 1.0, 1.9, 2.0, 3.1)] == [1, 1, 10, 10, 1, 10]
    assert noise.factor("decode", 0.0) == 1.0


def test_a_simulation_takes_as_long_as_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "durations.csv").write_text("seconds,step,ms\n0,view,1\n5,view,9\n5.1,view,3\n9,view,3\n")
    path = written(tmp_path, m_durations="durations.csv", m_noise=0.5)
    model = profile_model("m", read_scenario(path).models["m"], tmp_path, 1)
    assert model.cost.recorded is not None
    server = SimulatedServer({"": PoolSize(1)}, {"": {"m": model.cost}})
    spec = replace(SPEC, views=1)
    early, late = server.run([Request(1.0, 0, spec, SURE[0]), Request(6.0, 0, spec, SURE[0])])
    assert late.latency == pytest.approx(0.001 + 0.002)
    assert early.latency == pytest.approx(0.001 + 0.002 / 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seconds,step,ms\n1,think,2\n", "line 2: step is 'think'; it should be 'decode', 'view' or 'finish'"),
        ("seconds,step,ms\n", "durations.csv: holds no durations"),
        ("seconds,step\n1,view\n", "durations.csv: has no column ms"),
    ],
)
def test_a_mistake_in_durations_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "durations.csv").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_durations(tmp_path / "durations.csv")
