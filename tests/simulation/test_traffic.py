"""Scenario files, what they name, and the requests that they make."""

import json
import math
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from tests.support.references import MODELS
from tta_server.errors import ConfigError, InvalidInput
from tta_server.repository.calibration import Calibration, Threshold
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import Certain, Confident
from tta_server.simulation.forecast import Forecast, priced
from tta_server.simulation.scenario import ArrivalScenario, BurstScenario, Scenario, read_scenario
from tta_server.simulation.traffic import Traffic, invented, times
from tta_server.simulation.visits import Request

SCENARIOS = MODELS.parent / "docs" / "scenarios"

GOOD: dict[str, Any] = {
    "slots": 1,
    "models": {"m": {"view_ms": {1: 2.0}, "decode_ms": 1.0}},
    "traffic": [{"model": "m", "arrivals": {"poisson": 100}, "budget_ms": 100}],
    "duration_s": 5,
}


def written(folder: Path, **changes: Any) -> Path:
    """GOOD with some keys set, as `traffic_budget_ms` for those of the only traffic, `m_noise` for the model's."""
    found = json.loads(json.dumps(GOOD))
    found["models"]["m"]["view_ms"] = {1: 2.0}
    for key, value in changes.items():
        first, _, rest = key.partition("_")
        place = {"traffic": found["traffic"][0], "m": found["models"]["m"]}.get(first, found) if rest else found
        place[rest if place is not found else key] = value
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def requests(folder: Path, load: float = 1.0, **changes: Any) -> list[Request]:
    return list(Traffic(read_scenario(written(folder, **changes)), {}).requests(load))


def mistake(folder: Path, **changes: Any) -> str:
    """The one sentence that is said of it."""
    with pytest.raises(ConfigError) as raised:
        Traffic(read_scenario(written(folder, **changes)), {})
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


# ---- scenarios ----


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_those_of_the_docs_are_valid(path: Path) -> None:
    scenario = read_scenario(path)
    assert list(Traffic(scenario.model_copy(update={"requests": 10, "duration_s": None}), {}).requests(1.0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"slot": 2}, "unknown key slot; known: slots, bounds, door, models, traffic, loads"),
        ({"m_view_m": 2}, "unknown key models.m.view_m; known: view_ms, decode_ms"),
        ({"traffic_budget": 2}, "unknown key traffic.0.budget; known: model, name, arrivals"),
        ({"traffic_arrivals": {"poison": 2}}, "unknown key traffic.0.arrivals.poison; known: poisson, bursts, trace"),
        ({"m_jitter": {"share": 0.1, "factor": 2, "x": 1}}, "unknown key models.m.jitter.x; known: share, factor"),
        ({"slots": 0}, "slots is 0; it should be a whole number of at least 1"),
        ({"traffic_budget_ms": "soon"}, "traffic.0.budget_ms is 'soon'; it should be a number"),
        ({"traffic_budget_ms": None}, "traffic.0.budget_ms is null"),
        ({"traffic_views": 2, "traffic_min_views": 3}, "traffic.0: min_views 3 is over views 2"),
        ({"traffic_model": "n"}, "traffic.0.model is 'n'; known: m"),
        ({"traffic_priority": "high"}, "traffic.0.priority is 'high'; it should be 'interactive' or 'batch'"),
        ({"traffic_stop": "never"}, "traffic.0.stop: unknown stop 'never'; known: all, certain"),
        ({"traffic_stop": {"open": 0.1}}, "traffic.0.stop: stop open looks at masks"),
        ({"traffic_stop": {"epsilon": 0.1}}, "models.m has neither threshold nor calibration"),
        ({"traffic_arrivals": {}}, "traffic.0.arrivals: give one of poisson, bursts, trace"),
        ({"traffic_arrivals": {"trace": "none.csv"}}, "traffic.0.arrivals.trace: there is no "),
        (
            {"traffic_arrivals": {"bursts": {"base": 1, "peak": 2, "every_s": 1, "for_s": 2}}},
            "traffic.0.arrivals.bursts: for_s 2 is over every_s 1",
        ),
        ({"m_view_ms": {2: 1.0}}, "models.m: view_ms has no 1"),
        ({"m_view_ms": {1: -1.0}}, "models.m.view_ms.1 is -1.0; it should be a number over 0"),
        ({"m_view_ms": {"one": 1.0}}, "models.m.view_ms.one is 'one'; it should be a whole number"),
        ({"m_measure": True}, "models.m: give one of view_ms, measure: true, folder"),
        ({"requests": 5}, "give one of duration_s, requests"),
        ({"models": {}}, "models: is empty"),
        ({"loads": [0]}, "loads.0 is 0; it should be a number over 0"),
    ],
)
def test_a_mistake_is_one_sentence_with_key_found_and_allowed(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    sentence = mistake(tmp_path, **changes)
    assert sentence.startswith(str(tmp_path / "scenario.yaml"))
    assert sentence.count("scenario.yaml") == 1
    assert told in sentence


def test_what_is_no_scenario_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text, told in [("[1, 2]", r"holds \[1, 2\], not keys"), ("a: [", "is not valid YAML")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_scenario(path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_scenario(tmp_path)


# ---- arrivals ----


def test_poisson_rates_are_met_at_every_load(tmp_path: Path) -> None:
    for load in (0.5, 1.0, 3.0):
        found = requests(tmp_path, load, duration_s=40)
        assert len(found) == pytest.approx(100 * load * 40, rel=0.06)
        gaps = [later.at - earlier.at for earlier, later in pairwise(found)]
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert deviation == pytest.approx(mean, rel=0.1)


def test_loads_only_bring_the_same_requests_closer_together(tmp_path: Path) -> None:
    once, twice = (requests(tmp_path, load, requests=50, duration_s=None) for load in (1.0, 2.0))
    assert [request.at for request in twice] == pytest.approx([request.at / 2 for request in once])
    assert [request.trail for request in twice] == [request.trail for request in once]


def test_bursts_come_at_the_end_of_each_period() -> None:
    bursts = BurstScenario(base=20, peak=200, every_s=10, for_s=2)
    found = times(ArrivalScenario(bursts=bursts), 1.0, Random(0))
    seen = [at for at in (next(found) for _ in range(12_000)) if at < 200]
    inside = sum(at % 10 >= 8 for at in seen)
    assert inside == pytest.approx(20 * 2 * 200, rel=0.05)
    assert len(seen) - inside == pytest.approx(20 * 8 * 20, rel=0.06)


def test_a_share_of_clients_leaves(tmp_path: Path) -> None:
    found = requests(tmp_path, duration_s=20, traffic_leaves={"share": 0.25, "after_ms": 40})
    leaving = [request.leaves for request in found if request.leaves < math.inf]
    assert set(leaving) == {0.04}
    assert len(leaving) / len(found) == pytest.approx(0.25, abs=0.04)


def test_requests_ask_what_the_scenario_says(tmp_path: Path) -> None:
    asked = requests(tmp_path, traffic_views=5, traffic_min_views="all", traffic_priority="batch")[0].ask
    assert (asked.model, asked.budget, asked.views, asked.mandatory) == ("m", 0.1, 5, 5)
    assert asked.priority is Priority.BATCH


# ---- traces ----


def trace(folder: Path, text: str) -> dict[str, Any]:
    (folder / "trace.csv").write_text(text)
    return {"traffic_arrivals": {"trace": "trace.csv"}, "duration_s": None}


def test_a_trace_is_sorted_starts_at_zero_and_states_what_it_likes(tmp_path: Path) -> None:
    changes = trace(tmp_path, "seconds,budget_ms,views\n1000.5,,\n1000,50,\n1002,,3\n")
    found = requests(tmp_path, 2.0, **changes)
    assert [request.at for request in found] == [0, 0.25, 1]
    assert [(request.ask.budget, request.ask.views) for request in found] == [(0.05, 8), (0.1, 8), (0.1, 3)]


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_a_mistake_in_a_trace_is_one_sentence_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert told in mistake(tmp_path, **trace(tmp_path, text))


# ---- what images show ----

MARGINS = "image,views,margin,label\n0,1,0.2,4\n0,2,0.4,3\n1,1,0.9,1\n1,2,0.95,1\n"


def test_margins_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    found = requests(tmp_path, m_margins="margins.csv", traffic_views=2)
    assert {tuple(request.trail.margins) for request in found} == {(0.2, 0.4), (0.9, 0.95)}
    assert {tuple(request.trail.labels) for request in found} == {(4, 3), (1, 1)}


def test_margins_of_too_few_views_are_told(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    assert "image 0 has no line for 3 views; the traffic asks for 8" in mistake(tmp_path, m_margins="margins.csv")


def test_made_up_images_are_mostly_sure() -> None:
    trails = invented(8, Random(0))
    last = [trail.margins[-1] for trail in trails]
    assert all(0 <= margin <= 1 for trail in trails for margin in trail.margins)
    assert 0.6 < sum(margin > 0.6 for margin in last) / len(last) < 0.95


def test_stops_come_from_a_threshold_or_a_calibration(tmp_path: Path) -> None:
    assert requests(tmp_path, traffic_stop="certain")[0].ask.rule == Certain()
    found = requests(tmp_path, traffic_stop={"epsilon": 0.01}, m_threshold=0.7)
    assert found[0].ask.rule == Confident(0.7)
    calibration = Calibration(
        model="m", policy="p", merge="mean_probabilities", images=9, views=2, confidence=0.95,
        thresholds=(Threshold(epsilon=0.01, threshold=0.6, disagreements=0, bound=0.01, mean_views=1.5),),
        disagreement=(0.5, 0.0), edges=(0.5,), flips=((0.8, 0.1), (0.0, 0.0)),
    )  # fmt: skip
    (tmp_path / "calibration.json").write_text(calibration.model_dump_json())
    ask = requests(tmp_path, traffic_stop={"epsilon": 0.02}, m_calibration="calibration.json")[0].ask
    assert ask.rule == Confident(0.6)
    assert ask.worth(0.3, 1) == pytest.approx(0.8)
    with pytest.raises(InvalidInput, match="below every calibrated value"):
        requests(tmp_path, traffic_stop={"epsilon": 0.001}, m_calibration="calibration.json")
    (tmp_path / "calibration.json").write_text("{}")
    assert "calibration.json: is no calibration" in mistake(tmp_path, m_calibration="calibration.json")


# ---- costs and figures ----


def forecast(path: Path) -> Forecast:
    scenario = read_scenario(path)
    return Forecast(scenario, {name: priced(name, model, MODELS, 1) for name, model in scenario.models.items()})


def test_each_entry_has_its_row_and_all_together_one(tmp_path: Path) -> None:
    other = {"model": "m", "name": "n", "arrivals": {"poisson": 50}, "budget_ms": 50, "views": 2}
    rows = forecast(written(tmp_path, traffic=[*GOOD["traffic"], other])).rows(1.0, 2)
    assert [row["model"] for row in rows] == ["m", "n", "all"]
    for name in ("offered", "answered", "refused", "in_budget", "stop_all_views"):
        assert float(rows[0][name]) + float(rows[1][name]) == rows[2][name]
    assert [row["max_views"] for row in rows] == [8, 2, ""]


def test_agreement_is_told_where_labels_are_known(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    changes: dict[str, Any] = {"m_margins": "margins.csv", "m_threshold": 0.1}
    path = written(tmp_path, traffic_views=2, traffic_stop={"epsilon": 0.5}, duration_s=20, **changes)
    (row,) = forecast(path).rows(1.0, 1)
    assert row["mean_views"] == 1
    assert row["agreement"] == pytest.approx(0.5, abs=0.05)
    (row,) = forecast(written(tmp_path)).rows(1.0, 1)
    assert math.isnan(float(row["agreement"]))


def test_the_fewest_slots_are_enough_and_one_less_is_not(tmp_path: Path) -> None:
    asked = forecast(written(tmp_path, traffic_arrivals={"poisson": 300}, duration_s=3))
    (row,) = asked.fewest_slots(1.0, 0.99, 6.0)
    slots = int(row["slots"])
    assert float(row["goodput_share"]) >= 0.99
    assert float(row["mean_views"]) >= 6
    (less,) = asked.rows(1.0, slots - 1)
    assert float(less["goodput_share"]) < 0.99 or float(less["mean_views"]) < 6


def test_costs_of_a_bundled_model_are_measured(tmp_path: Path) -> None:
    found = {"traffic": GOOD["traffic"], "models": {"m": {"folder": str(MODELS / "clothing"), "image": [400, 533]}}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(found))
    cost = priced("m", read_scenario(path).models["m"], MODELS, 1).cost
    assert len(cost.buckets) == 8
    assert {bucket.model for bucket in cost.buckets} == {"m"}
    (curve,) = cost.curves.values()
    assert 1e-4 < curve[1] < 0.2
    assert cost.decode > 1e-4
    assert cost.finish > 0
    assert cost.patience == pytest.approx(0.2)


def test_a_model_that_is_not_there_is_told() -> None:
    model = Scenario.model_validate({**GOOD, "models": {"m": {"measure": True}}}, context=MODELS).models["m"]
    with pytest.raises(ConfigError, match=r"models\.m: there is no tta\.yaml in .*models/m"):
        priced("m", model, MODELS, 1)
