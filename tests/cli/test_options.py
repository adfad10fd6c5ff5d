"""Options: mistakes are sentences of our own, and commands that read images share their limits."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support import pictures
from tests.support.commands import check_mistake, run
from tta_server.cli.main import cli


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (["serve", "--max-pixels", "abc"], {}, "--max-pixels takes a whole number of at least 1, not 'abc'"),
        (["serve"], {"TTA_SLOTS": "1.5"}, "TTA_SLOTS takes a whole number from 1 to 1024, not '1.5'"),
        (
            ["predict", "a.jpg", "-m", "x", "--max-views", "0"],
            {},
            "--max-views takes a whole number of at least 1, not",
        ),
        (
            ["predict", "a.jpg", "-m", "x", "--top-k", "two"],
            {},
            "--top-k takes a whole number of at least 1, not 'two'",
        ),
        (["calibrate", "x", "-d", ".", "-e", "0.1", "-e", "b"], {}, "--epsilon takes a number, not 'b'"),
        (
            ["serve"],
            {"TTA_CORS_ORIGIN": "https://a.org,b.org"},
            "error: TTA_CORS_ORIGIN: 'https://a.org,b.org' is no origin",
        ),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_a_mistake_that_names_what_is_allowed(
    arguments: list[str], env: dict[str, str], sentence: str
) -> None:
    assert sentence in check_mistake(run(*arguments, env=env))


@pytest.mark.parametrize("command_name", ["predict", "views"])
def test_a_bound_out_of_range_is_a_mistake_that_names_it(photo: Path, command_name: str) -> None:
    arguments = [command_name, str(photo), "--model", "clothing", "--max-pixels", "0"]
    assert "--max-pixels" in check_mistake(run(*arguments))


@pytest.mark.parametrize(
    ("bounds", "env"),
    [
        (["--max-pixels", "100"], {}),
        ([], {"TTA_MAX_PIXELS": "100"}),
        (["--max-bytes", "1000"], {}),
        ([], {"TTA_MAX_BYTES": "1000"}),
    ],
    ids=["--max-pixels", "TTA_MAX_PIXELS", "--max-bytes", "TTA_MAX_BYTES"],
)
def test_commands_that_read_images_take_the_bounds_of_serve(
    photo: Path, tmp_path: Path, bounds: list[str], env: dict[str, str]
) -> None:
    (tmp_path / "other.png").write_bytes(pictures.png(seed=2))
    named = "--max-pixels" if "PIXELS" in str([bounds, env]).upper() else "--max-bytes"
    for arguments in (
        ["predict", str(photo), "--model", "clothing"],
        ["views", str(photo), "--model", "clothing", "--out", str(tmp_path / "sheet.png")],
        ["calibrate", "clothing", "--data", str(tmp_path), "--epsilon", "0.9", "--out", str(tmp_path / "c.json")],
    ):
        done = run(*arguments, *bounds, env=env)
        assert done.returncode in (1, 2), done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr


def test_a_paragraph_of_the_help_is_as_wide_as_the_terminal() -> None:
    printed = CliRunner().invoke(cli, ["models", "--help"], env={"COLUMNS": "200"}).stdout
    lines = [line.strip() for line in printed.splitlines()]
    assert (
        "No model is run: what test images show to be wrong in a tta.yaml, `serve` and `predict` print. "
        "Ends with exit status 2 if a model can't be loaded." in lines
    )
