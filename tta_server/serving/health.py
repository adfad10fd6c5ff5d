"""Which models failed to load or are unhealthy, and whether the process has to be restarted."""

import threading
from collections.abc import Mapping

from tta_server.repository.failure import LoadFailure

FAILURES = 3
"""Failed batches in a row that make a model suspect."""


def unhealthy_message(model: str) -> str:
    """The error sentence for a client whose model is unhealthy."""
    return f"model {model} is unhealthy (failed batches and a failed probe); it is probed again every second"


def failed_message(model: str, failure: LoadFailure) -> str:
    """The error sentence for a client whose model could not be loaded."""
    return f"model {model} failed to load: {failure.public}"


class Health:
    """The health of each model, reported by slots and the model probe, and read by the protocols.

    A model that could not be loaded, verified or warmed up is in `load_failures` until it is loaded.

    A model is suspect after FAILURES failed batches in a row, and unhealthy once a probe with a test card has failed
    too: a client whose images a model can't process must not lock out others. One batch that works makes it healthy.
    A model whose server can't be reached is suspect after one batch.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failures: dict[str, int] = {}
        self.unhealthy: frozenset[str] = frozenset()
        self.load_failures: Mapping[str, LoadFailure] = {}
        self.fatal = ""
        """Why the process has to be restarted; empty while it works."""
        self._reprice_requested: dict[str, None] = {}
        self._closed = False

    def failed_to_load(self, model: str, failure: LoadFailure) -> None:
        """A model can't be served: no version of it is loaded."""
        with self._changed:
            self.load_failures = dict(sorted({**self.load_failures, model: failure}.items()))
        self.worked(model)  # nothing is left to probe

    def loaded(self, model: str) -> None:
        """A model was loaded, or its failure no longer matters."""
        with self._changed:
            self.load_failures = {name: why for name, why in self.load_failures.items() if name != model}
        self.worked(model)

    def problems(self) -> dict[str, str]:
        """The models whose requests are refused, sorted by name, each with the error sentence."""
        failures = self.load_failures
        found = {name: unhealthy_message(name) for name in self.unhealthy}
        found |= {name: failed_message(name, failure) for name, failure in failures.items()}
        return dict(sorted(found.items()))

    def worked(self, model: str) -> None:
        """A batch of a model worked."""
        if model in self._failures:  # without the lock, for this runs after every batch
            with self._changed:
                self._failures.pop(model, None)
                self.unhealthy -= {model}

    def failed(self, model: str) -> None:
        """A batch of a model failed."""
        with self._changed:
            self._failures[model] = self._failures.get(model, 0) + 1
            self._changed.notify_all()

    def suspect(self, model: str) -> None:
        """A batch of a model failed in a way that the next one would too: asks for a probe now."""
        with self._changed:
            self._failures[model] = max(FAILURES, self._failures.get(model, 0) + 1)
            self._changed.notify_all()

    def mark_unhealthy(self, model: str) -> None:
        """A probe of a model failed; ignored if a batch has worked since its last failure."""
        with self._changed:
            if model in self._failures:
                self.unhealthy |= {model}

    def request_reprice(self, model: str) -> None:
        """A budget was too small for a model's estimated cost: asks for a new measurement, for it may be outdated."""
        if model not in self._reprice_requested:
            with self._changed:
                self._reprice_requested[model] = None
                self._changed.notify_all()

    def mark_fatal(self, reason: str) -> None:
        """The process has to be restarted; the first reason is kept."""
        self.fatal = self.fatal or reason

    def wait_for_work(self) -> tuple[list[str], list[str]]:
        """Waits for models to probe: returns the suspect and the outdated ones, both empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._suspects() or self._reprice_requested)
            outdated = list(self._reprice_requested)
            self._reprice_requested.clear()
            return ([], []) if self._closed else (self._suspects(), outdated)

    def close(self) -> None:
        """Ends `wait_for_work`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _suspects(self) -> list[str]:
        return [model for model, count in self._failures.items() if count >= FAILURES]
