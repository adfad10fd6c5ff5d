"""The commands and their help."""

import pytest
from typer.testing import CliRunner

from tta_server import __version__
from tta_server.cli.main import cli

COMMANDS = ["serve", "predict", "views", "calibrate", "simulate", "ping", "export-triton", "models", "policies"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "--help" in done.stdout


def test_help_lists_every_command() -> None:
    done = CliRunner().invoke(cli, ["--help"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert __version__ in CliRunner().invoke(cli, ["--version"]).stdout
