"""Records in jobs' progress what slots do with their views."""

import threading
from typing import Any, Protocol

from tta_server.scheduling.jobs import Job
from tta_server.scheduling.progress import Progress


class Recorder(Protocol):
    """Records in a job's progress what happens to its views, under the lock that guards it."""

    def merge(self, job: Job[Any], view: int) -> Progress | None:
        """A view is about to be merged. Returns the progress with it; None if the job is settled, and then the view
        must not be merged."""

    def lose(self, job: Job[Any], view: int) -> None:
        """A view has no usable output."""


class LockedRecorder:
    """Records under a lock what happens to the views of jobs."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def merge(self, job: Job[Any], view: int) -> Progress | None:
        with self._lock:
            return job.merge(view)

    def lose(self, job: Job[Any], view: int) -> None:
        with self._lock:
            job.lose(view)
