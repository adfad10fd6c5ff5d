"""`tta-server models` and `tta-server policies`."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tests.support.commands import check_mistake, run, run_process
from tests.support.folders import GOOD, NO_YAML, write_folder
from tta_server.cli.main import cli


def test_models_are_listed() -> None:
    done = run_process("models")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("cifar10", "clothing", "nuclei", "segmentation", "any size"))


def test_models_are_listed_as_json() -> None:
    found = json.loads(run("models", "--json").stdout)
    assert [model["name"] for model in found] == [
        "bloodcells",
        "cifar10",
        "clothing",
        "mouse",
        "nuclei",
        "nuclei-count",
    ]


def test_a_model_that_can_t_be_loaded_is_listed_beside_the_others(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, GOOD, NO_YAML)
    reason = f"{folder / NO_YAML / 'tta.yaml'}: is not valid YAML in line 2, column 1"
    for form in ([], ["--json"]):
        done = run("models", "--models", folder, *form)
        assert check_mistake(done) == f"error: model {NO_YAML} failed to load: {reason}"
        assert GOOD in done.stdout
    good, failed = json.loads(done.stdout)
    assert (good["name"], good["task"]) == (GOOD, "classification")
    assert (failed["name"], failed["state"], failed["reason"]) == (NO_YAML, "failed", reason)


def test_policies_are_listed() -> None:
    done = CliRunner().invoke(cli, ["policies"])
    assert done.exit_code == 0
    assert "ten_crop" in done.stdout
    found = json.loads(CliRunner().invoke(cli, ["policies", "--json"]).stdout)
    assert {"d4", "hflip"} <= {preset["name"] for preset in found["presets"]}
