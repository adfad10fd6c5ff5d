"""Profiles of models: costs that are stated or measured."""

from pathlib import Path

import pytest
import yaml

from tests.simulation.scenarios import GOOD
from tests.support.references import MODELS
from tta_server.errors import ConfigError
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.scenario import Scenario, read_scenario


def test_costs_of_a_bundled_model_are_measured(tmp_path: Path) -> None:
    found = {"traffic": GOOD["traffic"], "models": {"m": {"folder": str(MODELS / "clothing"), "image": [400, 533]}}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(found))
    cost = profile_model("m", read_scenario(path).models["m"], MODELS, 1).cost
    assert len(cost.buckets) == 8
    assert {bucket.model for bucket in cost.buckets} == {"m"}
    (curve,) = cost.curves.values()
    assert 1e-4 < curve[1] < 0.2
    assert cost.decode > 1e-4
    assert cost.finish > 0
    assert cost.default_budget == pytest.approx(0.2)


def test_a_model_without_a_folder_is_refused() -> None:
    model = Scenario.model_validate({**GOOD, "models": {"m": {"measure": True}}}, context=MODELS).models["m"]
    with pytest.raises(ConfigError, match=r"models\.m: there is no tta\.yaml in .*models/m"):
        profile_model("m", model, MODELS, 1)
