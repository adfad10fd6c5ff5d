"""The jobs that were admitted and are not settled yet."""

import logging
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from tta_server.errors import InternalError, TTAError
from tta_server.scheduling.jobs import Finished, Job
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.stopping import StopReason

log = logging.getLogger(__name__)


class Settleable(Protocol):
    def settle(self, outcome: StopReason | TTAError, progress: Progress) -> None:
        """Makes the answer and resolves the job's future."""


W = TypeVar("W", bound=Settleable)


class Unsettled(Generic[W]):
    """Settles each of its jobs exactly once, whichever threads ask for it at once. It needs no lock: taking an
    entry out of a dict is atomic."""

    def __init__(self) -> None:
        self._jobs: dict[Job[Any], bool] = {}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, jobs: Sequence[Job[W]]) -> None:
        self._jobs.update(dict.fromkeys(jobs, True))

    def settle(self, done: Finished[W]) -> bool:
        """False if it was settled already. If the answer can't be delivered, the job is settled with an InternalError;
        if that fails too, the error is raised."""
        if not self._jobs.pop(done.job, False):
            return False
        try:
            done.job.payload.settle(done.outcome, done.job.progress)
        except Exception:
            log.exception("an answer of %s could not be handed out", done.job.model)
            failure = InternalError("internal error: the answer could not be delivered")
            done.job.payload.settle(failure, done.job.progress)
        return True

    def fail_all(self, error: TTAError) -> None:
        """Settles all jobs with this error; a job that raises does not keep the others from it."""
        for job in list(self._jobs):
            try:
                self.settle(Finished(job, error))
            except Exception:
                log.exception("a job of %s could not be settled", job.model)
