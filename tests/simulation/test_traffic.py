"""The requests that a scenario makes."""

import math
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.simulation.scenarios import requests
from tta_server.errors import InvalidInput
from tta_server.repository.calibration import Calibration, Threshold
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import Certain, Confident
from tta_server.simulation.scenario import ArrivalScenario, BurstScenario
from tta_server.simulation.traffic import arrival_times, synthetic_runs


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
    assert [request.image for request in twice] == [request.image for request in once]


def test_bursts_come_at_the_end_of_each_period() -> None:
    bursts = BurstScenario(base=20, peak=200, every_s=10, for_s=2)
    found = arrival_times(ArrivalScenario(bursts=bursts), 1.0, Random(0))
    times = [at for at in (next(found) for _ in range(12_000)) if at < 200]
    inside = sum(at % 10 >= 8 for at in times)
    assert inside == pytest.approx(20 * 2 * 200, rel=0.05)
    assert len(times) - inside == pytest.approx(20 * 8 * 20, rel=0.06)


def test_a_share_of_clients_leaves(tmp_path: Path) -> None:
    found = requests(tmp_path, duration_s=20, traffic_leaves={"share": 0.25, "after_ms": 40})
    leaving = [request.leaves_after for request in found if request.leaves_after < math.inf]
    assert set(leaving) == {0.04}
    assert len(leaving) / len(found) == pytest.approx(0.25, abs=0.04)


def test_requests_are_as_the_scenario_says(tmp_path: Path) -> None:
    spec = requests(tmp_path, traffic_views=5, traffic_min_views="all", traffic_priority="batch")[0].spec
    assert (spec.model, spec.budget, spec.views, spec.mandatory) == ("m", 0.1, 5, 5)
    assert spec.priority is Priority.BATCH


def test_synthetic_images_mostly_have_large_margins() -> None:
    images = synthetic_runs(8, Random(0))
    last = [image.margins[-1] for image in images]
    assert all(0 <= margin <= 1 for image in images for margin in image.margins)
    assert 0.6 < sum(margin > 0.6 for margin in last) / len(last) < 0.95


def test_stops_come_from_a_threshold_or_a_calibration(tmp_path: Path) -> None:
    assert requests(tmp_path, traffic_stop="certain")[0].spec.rule == Certain()
    found = requests(tmp_path, traffic_stop={"epsilon": 0.01}, m_threshold=0.7)
    assert found[0].spec.rule == Confident(0.7)
    calibration = Calibration(
        model="m", policy="p", merge="mean_probabilities", images=9, views=2, confidence=0.95,
        thresholds=(Threshold(epsilon=0.01, threshold=0.6, disagreements=0, bound=0.01, mean_views=1.5),),
        disagreement=(0.5, 0.0), edges=(0.5,), flips=((0.8, 0.1), (0.0, 0.0)),
    )  # fmt: skip
    (tmp_path / "calibration.json").write_text(calibration.model_dump_json())
    spec = requests(tmp_path, traffic_stop={"epsilon": 0.02}, m_calibration="calibration.json")[0].spec
    assert spec.rule == Confident(0.6)
    assert spec.expected_gain(0.3, 1) == pytest.approx(0.8)
    with pytest.raises(InvalidInput, match="below every calibrated value"):
        requests(tmp_path, traffic_stop={"epsilon": 0.001}, m_calibration="calibration.json")
