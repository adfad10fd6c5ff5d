"""Jobs' payloads without an image, for tests of the engine."""

import threading
from collections.abc import Callable
from typing import Any

from tta_server.errors import TTAError
from tta_server.scheduling.jobs import Job
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.stopping import StopReason

PATIENCE = 20
"""Seconds after which a test gives up on what should have happened long ago."""


def nothing() -> None:
    pass


class PaperWork:
    """Remembers how often and how it was settled."""

    def __init__(self, decode: Callable[[], None] = nothing) -> None:
        self._decode = decode
        self.done = threading.Event()
        self.outcomes: list[StopReason | TTAError] = []

    def decode(self) -> None:
        self._decode()

    def notify_progress(self, progress: Progress) -> None:
        pass

    def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
        self.outcomes.append(outcome)
        self.done.set()

    @property
    def outcome(self) -> StopReason | TTAError:
        """Waits for it."""
        assert self.done.wait(PATIENCE), "the job was never settled"
        (outcome,) = self.outcomes
        return outcome
