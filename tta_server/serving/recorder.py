"""Records in a job's progress which of its views are merged or lost."""

import threading
from typing import Any, Protocol

from tta_server.scheduling.jobs import Job
from tta_server.scheduling.progress import Progress


class Recorder(Protocol):
    """Records results of views in a job's progress, under the lock that guards it."""

    def merge(self, job: Job[Any], views: int) -> Progress | None:
        """Records a set of views as merged just before they are, bit i for view i.

        Returns the new progress; None if the job is settled, and then they must not be merged.
        """

    def lose(self, job: Job[Any], views: int) -> None:
        """Records that a set of views has no usable output."""


class LockedRecorder:
    """A Recorder that takes a lock, the engine's, for each record."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def merge(self, job: Job[Any], views: int) -> Progress | None:
        with self._lock:
            return job.merge(views)

    def lose(self, job: Job[Any], views: int) -> None:
        with self._lock:
            job.lose(views)
