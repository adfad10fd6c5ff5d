"""Figures of a scenario, and profiles of its models."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.scenarios import GOOD, MARGINS, written
from tests.support.references import MODELS
from tta_server.simulation.forecast import Forecast, Target
from tta_server.simulation.pool import PoolSize
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
    (row,) = found.fewest(1.0, Target(0.99, 6.0))
    slots = int(row["slots"])
    assert float(row["goodput_share"]) >= 0.99
    assert float(row["mean_views"]) >= 6
    (less,) = found.rows(1.0, slots - 1)
    assert float(less["goodput_share"]) < 0.99 or float(less["mean_views"]) < 6


def test_the_fewest_workers_of_a_device_are_enough_and_one_less_is_not(tmp_path: Path) -> None:
    """2,000 images a second, 2 ms of a worker each: three workers cannot be enough."""
    changes: dict[str, Any] = {"m_view_ms": {1: 1.0, 16: 1.2}, "m_decode_ms": 2.0, "workers": 1}
    found = forecast(written(tmp_path, traffic_arrivals={"poisson": 2000}, duration_s=0.4, **changes))
    (row,) = found.fewest(1.0, Target(0.99), find_workers=True)
    slots, workers = int(row["slots"]), int(row["workers"])
    assert slots == 1
    assert 4 <= workers <= 6
    assert float(row["goodput_share"]) >= 0.99
    (less,) = found.pool_rows(1.0, {"": PoolSize(slots, workers - 1)})
    assert float(less["goodput_share"]) < 0.99


def test_rows_have_the_figures_of_the_pool_of_their_model(tmp_path: Path) -> None:
    """A pool with half the work of the other is half as busy."""
    models = {name: {"pool": pool, "view_ms": {1: 2.0}} for name, pool in (("m", "a"), ("n", "b"))}
    traffic = [
        {"model": name, "arrivals": {"poisson": per_s}, "budget_ms": 100, "views": 1}
        for name, per_s in (("m", 100), ("n", 50))
    ]
    pools = {"a": {"slots": 1}, "b": {"slots": 1}}
    path = written(tmp_path, without=["slots"], models=models, traffic=traffic, pools=pools, duration_s=20)
    first, second, both = forecast(path).rows(1.0)
    assert (first["pool"], second["pool"], both["pool"]) == ("a", "b", "")
    assert float(first["busy_share"]) == pytest.approx(0.2, abs=0.02)
    assert float(second["busy_share"]) == pytest.approx(0.1, abs=0.02)
    assert float(first["closed_per_s"]) == pytest.approx(500)
    assert float(both["offered"]) == float(first["offered"]) + float(second["offered"])
