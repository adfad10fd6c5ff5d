"""Which models are unhealthy, and whether the process can go on."""

import threading

FAILURES = 3
"""So many failed batches in a row make a model suspect."""


def unhealthy(model: str) -> str:
    """The message to a client whose model is unhealthy."""
    return f"model {model} is unhealthy ({FAILURES} failed batches and a failed probe); it is probed again every second"


class Health:
    """Told by the engine's threads and the canary, asked by the doors.

    A suspect model is ill only when the canary's image has failed too: a client whose images a model can't take must
    not shut others out. One batch that works makes it well.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failures: dict[str, int] = {}
        self.ill: frozenset[str] = frozenset()
        self.fatal = ""
        """Why only a new process helps; empty while this one works."""
        self._doubted: dict[str, None] = {}
        self._closed = False

    def worked(self, model: str) -> None:
        if model in self._failures:  # without the lock: this is asked after every batch
            with self._changed:
                self._failures.pop(model, None)
                self.ill -= {model}

    def failed(self, model: str) -> None:
        with self._changed:
            self._failures[model] = self._failures.get(model, 0) + 1
            self._changed.notify_all()

    def mark_unhealthy(self, model: str) -> None:
        """Its canary failed; not if a batch has worked since."""
        with self._changed:
            if model in self._failures:
                self.ill |= {model}

    def request_reprice(self, model: str) -> None:
        """A budget was too small for what it is thought to cost, which may be outdated."""
        if model not in self._doubted:
            with self._changed:
                self._doubted[model] = None
                self._changed.notify_all()

    def mark_fatal(self, reason: str) -> None:
        self.fatal = self.fatal or reason

    def wait_for_work(self) -> tuple[list[str], list[str]]:
        """Models that failed so often, the ill among them, and those whose cost is in doubt; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._suspects() or self._doubted)
            doubted = list(self._doubted)
            self._doubted.clear()
            return ([], []) if self._closed else (self._suspects(), doubted)

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _suspects(self) -> list[str]:
        return [model for model, count in self._failures.items() if count >= FAILURES]
