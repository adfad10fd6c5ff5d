"""Scenario files made by changing a small one, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tta_server.errors import ConfigError
from tta_server.simulation.jobs import Request
from tta_server.simulation.scenario import read_scenario
from tta_server.simulation.traffic import Traffic

GOOD: dict[str, Any] = {
    "slots": 1,
    "models": {"m": {"view_ms": {1: 2.0}, "decode_ms": 1.0}},
    "traffic": [{"model": "m", "arrivals": {"poisson": 100}, "budget_ms": 100}],
    "duration_s": 5,
}
MARGINS = "image,views,margin,label\n0,1,0.2,4\n0,2,0.4,3\n1,1,0.9,1\n1,2,0.95,1\n"
"""Of two images with two views each."""


def written(folder: Path, without: Sequence[str] = (), **changes: Any) -> Path:
    """GOOD without some keys and with changed ones.

    `traffic_budget_ms` is `budget_ms` of its traffic, `m_noise` is `noise` of its model.
    """
    found = json.loads(json.dumps(GOOD))
    found["models"]["m"]["view_ms"] = {1: 2.0}
    for key, value in changes.items():
        first, _, rest = key.partition("_")
        place = {"traffic": found["traffic"][0], "m": found["models"]["m"]}.get(first, found) if rest else found
        place[rest if place is not found else key] = value
    for key in without:
        del found[key]
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def requests(folder: Path, load: float = 1.0, **changes: Any) -> list[Request]:
    return list(Traffic(read_scenario(written(folder, **changes)), {}).requests(load))


def mistake(folder: Path, **changes: Any) -> str:
    """The sentence of the error that it raises."""
    with pytest.raises(ConfigError) as raised:
        Traffic(read_scenario(written(folder, **changes)), {})
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence
