"""`tta-server models` and `tta-server policies`."""

import json

from typer.testing import CliRunner

from tests.support.commands import run, run_process
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


def test_policies_are_listed() -> None:
    done = CliRunner().invoke(cli, ["policies"])
    assert done.exit_code == 0
    assert "ten_crop" in done.stdout
    found = json.loads(CliRunner().invoke(cli, ["policies", "--json"]).stdout)
    assert {"d4", "hflip"} <= {preset["name"] for preset in found["presets"]}
