"""Figures of a scenario, and profiles of its models."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.scenarios import GOOD, MARGINS, written
from tests.support.references import MODELS
from tta_server.simulation.forecast import Forecast
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.scenario import read_scenario


def forecast(path: Path) -> Forecast:
    scenario = read_scenario(path)
    return Forecast(scenario, {name: profile_model(name, model, MODELS, 1) for name, model in scenario.models.items()})


def test_each_entry_has_its_row_and_all_together_one(tmp_path: Path) -> None:
    other = {"model": "m", "name": "n", "arrivals": {"poisson": 50}, "budget_ms": 50, "views": 2}
    rows = forecast(written(tmp_path, traffic=[*GOOD["traffic"], other])).rows(1.0, 2)
    assert [row["model"] for row in rows] == ["m", "n", "all"]
    for name in ("offered", "answered", "refused", "in_budget", "stop_all_views"):
        assert float(rows[0][name]) + float(rows[1][name]) == rows[2][name]
    assert [row["max_views"] for row in rows] == [8, 2, ""]


def test_agreement_is_a_number_where_labels_are_known(tmp_path: Path) -> None:
    (tmp_path / "margins.csv").write_text(MARGINS)
    changes: dict[str, Any] = {"m_margins": "margins.csv", "m_threshold": 0.1}
    path = written(tmp_path, traffic_views=2, traffic_stop={"epsilon": 0.5}, duration_s=20, **changes)
    (row,) = forecast(path).rows(1.0, 1)
    assert row["mean_views"] == 1
    assert row["agreement"] == pytest.approx(0.5, abs=0.05)
    (row,) = forecast(written(tmp_path)).rows(1.0, 1)
    assert math.isnan(float(row["agreement"]))


def test_the_fewest_slots_are_enough_and_one_less_is_not(tmp_path: Path) -> None:
    found = forecast(written(tmp_path, traffic_arrivals={"poisson": 300}, duration_s=3))
    (row,) = found.fewest_slots(1.0, 0.99, 6.0)
    slots = int(row["slots"])
    assert float(row["goodput_share"]) >= 0.99
    assert float(row["mean_views"]) >= 6
    (less,) = found.rows(1.0, slots - 1)
    assert float(less["goodput_share"]) < 0.99 or float(less["mean_views"]) < 6
