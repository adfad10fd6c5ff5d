"""What `serve` prints of its models at start."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.folders import CONFIG, GOOD, write_folder
from tta_server.api.describe import model_notes
from tta_server.cli.notes import print_failures, print_notes, served
from tta_server.repository.failure import LoadFailure
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model, Observed
from tta_server.tasks.checks import Finding

WARNING = Finding("batch.independent", "two images together give other rows than alone")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = write_folder(tmp_path, GOOD, config=CONFIG + "checks: {scores.sum: off}\n")
    made = load_model(folder / GOOD)
    made.observe(replace(made.observed, warnings=(WARNING,)))
    return made


def test_notes_are_warnings_and_checks_that_are_off(model: Model) -> None:
    assert model_notes(model) == [
        "two images together give other rows than alone (check batch.independent)",
        "tta.yaml switches the check scores.sum off",
    ]
    model.observe(Observed())
    assert model_notes(model) == ["tta.yaml switches the check scores.sum off"]


def test_each_is_a_line_on_stderr(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    print_failures({"a": LoadFailure("/m/a/tta.yaml: is not valid YAML", "a/tta.yaml: is not valid YAML")})
    print_notes([model])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error: model a failed to load: /m/a/tta.yaml: is not valid YAML",
        f"warning: model good: {WARNING.sentence} (check batch.independent)",
        "warning: model good: tta.yaml switches the check scores.sum off",
    ]


@pytest.mark.parametrize(
    ("failed", "text"),
    [([], "a, b"), (["c"], "a, b (c failed, see above)"), (["c", "d"], "a, b (c, d failed, see above)")],
)
def test_the_ready_line_counts_the_failed_models(failed: list[str], text: str) -> None:
    assert served(["a", "b"], failed) == text
