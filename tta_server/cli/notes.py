"""What `tta-server serve` prints of its models at start."""

from collections.abc import Iterable, Mapping

from tta_server.api.describe import model_notes
from tta_server.cli.console import note, problem, warn
from tta_server.repository.failure import LoadFailure
from tta_server.repository.model import Model


def print_failures(failures: Mapping[str, LoadFailure]) -> None:
    """A line for each model that is not served."""
    for name, failure in failures.items():
        problem(f"model {name} failed to load: {failure.reason}")


def print_notes(models: Iterable[Model]) -> None:
    """A line for each model that does not run in the usual way, each warning, and each check that is off."""
    for model in models:
        if model.backend.where:
            note(f"model {model.name}: {model.backend.where}")
        for each in model_notes(model):
            warn(f"model {model.name}: {each}")


def served(models: Iterable[str], failed: Iterable[str]) -> str:
    """As in the line that ends the start: `a, b (c failed, see above)`."""
    names, missing = ", ".join(models) or "no model", ", ".join(failed)
    return f"{names} ({missing} failed, see above)" if missing else names
