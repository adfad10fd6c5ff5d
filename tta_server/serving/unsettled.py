"""The admitted jobs that are not settled yet."""

import logging
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from tta_server.errors import InternalError, TTAError
from tta_server.scheduling.jobs import Finished, Job
from tta_server.scheduling.stopping import StopReason

log = logging.getLogger(__name__)


class Settleable(Protocol):
    """A payload that resolves its job's future."""

    def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
        """Makes the answer of its job and resolves the future."""


W = TypeVar("W", bound=Settleable)


class Unsettled(Generic[W]):
    """Settles each of its jobs exactly once, even if several threads try at once.

    It needs no lock, for removing an entry from a dict is atomic.
    """

    def __init__(self) -> None:
        self._jobs: dict[Job[Any], bool] = {}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, jobs: Sequence[Job[W]]) -> None:
        """Adds admitted jobs."""
        self._jobs.update(dict.fromkeys(jobs, True))

    def settle(self, done: Finished[W]) -> bool:
        """Settles a job; False if it was settled already.

        If that raises, the job is settled with an InternalError; if that raises too, the error is raised.
        """
        if not self._jobs.pop(done.job, False):
            return False
        try:
            done.job.payload.settle(done.outcome, done.job)
        except Exception:
            log.exception("an answer of %s could not be delivered", done.job.model)
            failure = InternalError("internal error: the answer could not be delivered")
            done.job.payload.settle(failure, done.job)
        return True

    def close_progress(self) -> None:
        """Marks every job as settled, so that nothing is merged any more. Under the lock of the jobs' progress."""
        for job in list(self._jobs):
            job.progress = job.progress.settle()

    def fail_all(self, error: TTAError) -> None:
        """Settles all jobs with this error; if one raises, that is logged and the others are settled."""
        for job in list(self._jobs):
            try:
                self.settle(Finished(job, error))
            except Exception:
                log.exception("a job of %s could not be settled", job.model)
