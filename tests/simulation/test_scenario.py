"""Scenario files: those of the docs are valid, and a mistake names file, key, what was found and what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from tests.simulation.scenarios import mistake, written
from tests.support.references import MODELS
from tta_server.errors import ConfigError
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.scenario import read_scenario
from tta_server.simulation.traffic import Traffic

SCENARIOS = MODELS.parent / "docs" / "scenarios"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_those_of_the_docs_are_valid(path: Path) -> None:
    scenario = read_scenario(path)
    assert list(Traffic(scenario.model_copy(update={"requests": 10, "duration_s": None}), {}).requests(1.0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slot": 2}, "unknown key slot; known: slots, workers, device, prepare_ms, in_flight, pools, bounds"),
        ({"m_view_m": 2}, "unknown key models.m.view_m; known: pool, view_ms, decode_ms"),
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
        ({"traffic_stop": {"open": 0.1}}, "traffic.0.stop: stop open needs masks"),
        ({"traffic_stop": {"epsilon": 0.1}}, "models.m has neither threshold nor calibration"),
        ({"traffic_arrivals": {}}, "traffic.0.arrivals: give one of poisson, bursts, trace"),
        ({"traffic_arrivals": {"trace": "none.csv"}}, "traffic.0.arrivals.trace: there is no "),
        (
            {"traffic_arrivals": {"bursts": {"base": 1, "peak": 2, "every_s": 1, "for_s": 2}}},
            "traffic.0.arrivals.bursts: for_s 2 is over every_s 1",
        ),
        ({"m_view_ms": {2: 1.0}}, "models.m: view_ms has no key 1"),
        ({"m_view_ms": {1: -1.0}}, "models.m.view_ms.1 is -1.0; it should be a number over 0"),
        ({"m_view_ms": {"one": 1.0}}, "models.m.view_ms.one is 'one'; it should be a whole number"),
        ({"m_measure": True}, "models.m: give one of view_ms, measure: true, folder"),
        ({"requests": 5}, "give one of duration_s, requests"),
        ({"models": {}}, "models: is empty"),
        ({"prepare_ms": 1}, "prepare_ms is host work of a device's batches, which needs workers"),
        ({"device": True, "workers": 0}, "device: true needs workers, and workers is 0"),
        ({"in_flight": 3, "workers": 1}, "in_flight is 3; it should be 1 or 2"),
        ({"pools": {"a": {}}}, "give one of slots, pools; each of the pools has its own slots"),
        ({"pools": {"a": {"slotz": 1}}}, "unknown key pools.a.slotz; known: slots, workers"),
        ({"m_pool": "b"}, "models.m.pool is 'b', but there are no pools"),
        ({"machine": {"stall": {}}}, "unknown key machine.stall; known: stalls, slow"),
        ({"machine": {"stalls": {"per_s": 1, "from_ms": 300}}}, "machine.stalls: from_ms 300 is over to_ms 200"),
        ({"machine": {"slow": [{"from_s": 1, "for_s": 2}]}}, "machine.slow.0.factor is missing"),
        ({"m_durations": "none.csv"}, "models.m.durations: there is no "),
        ({"loads": [0]}, "loads.0 is 0; it should be a number over 0"),
    ],
)
def test_a_mistake_is_one_sentence_with_key_found_and_allowed(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    found = mistake(tmp_path, **changes)
    assert found.startswith(str(tmp_path / "scenario.yaml"))
    assert found.count("scenario.yaml") == 1
    assert sentence in found


def several(folder: Path, pool: str | None) -> Path:
    """A scenario with two pools, and the pool of its model."""
    return written(folder, without=["slots"], pools={"cpu": {}, "gpu": {"device": True}}, m_pool=pool)


@pytest.mark.parametrize(("pool", "found"), [(None, "missing"), ("tpu", "'tpu'")])
def test_each_model_names_one_of_several_pools(tmp_path: Path, pool: str | None, found: str) -> None:
    with pytest.raises(ConfigError, match=f"models.m.pool is {found}; known: cpu, gpu"):
        read_scenario(several(tmp_path, pool))


def test_unstated_numbers_of_slots_and_workers_are_those_of_the_server(tmp_path: Path) -> None:
    """With a device: cores - 2 workers, at least 1, and one slot on the CPU; without: a slot for each core."""
    scenario = read_scenario(several(tmp_path, "gpu"))
    assert scenario.sizes(8) == {"cpu": PoolSize(1), "gpu": PoolSize(1, workers=6)}
    assert scenario.sizes(2)["gpu"] == PoolSize(1, workers=1)
    assert scenario.with_pool("gpu", slots=2, workers=3).sizes(8)["gpu"] == PoolSize(2, workers=3)
    assert read_scenario(written(tmp_path, slots=None)).sizes(8) == {"": PoolSize(8)}
    stated = read_scenario(written(tmp_path, slots=2, workers=3, prepare_ms=0.5, in_flight=1))
    assert stated.sizes(8) == {"": PoolSize(2, 3, 0.0005, 1)}


def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text, sentence in [("[1, 2]", r"holds \[1, 2\], not keys"), ("a: [", "is not valid YAML")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            read_scenario(path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_scenario(tmp_path)
