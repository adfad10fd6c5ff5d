"""What pools with and without workers share: live jobs, their timers, and what the results of steps mean. Pure."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from tta_server.errors import Cancelled, Overloaded, TTAError
from tta_server.scheduling.arrivals import ExpectedArrivals
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.estimates import Estimates
from tta_server.scheduling.jobs import (
    Backlog,
    Batch,
    Decode,
    Finished,
    Job,
    Outcome,
    Phase,
    Quote,
    Step,
)
from tta_server.scheduling.live_jobs import LiveJobs
from tta_server.scheduling.outlook import Outlook
from tta_server.scheduling.stopping import StopReason
from tta_server.scheduling.timers import DueTimers, Watchdog

W = TypeVar("W")


class BasePool(ABC, Generic[W]):
    """The live jobs of a pool and when each has to be checked again."""

    estimates: Estimates
    live: LiveJobs[W]
    outlook: Outlook[W]

    def __init__(self) -> None:
        self.arrivals = ExpectedArrivals()
        self.timers: DueTimers[W] = DueTimers()
        self.watchdog: Watchdog[W] = Watchdog()

    @abstractmethod
    def release(self, step: Decode[W] | Batch[W], now: float) -> None:
        """Records that a slot or a worker has ended this step."""

    @abstractmethod
    def end(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Ends a live job: returned as finished, or queued for the thread that makes its answer."""

    @abstractmethod
    def forget(self, job: Job[W]) -> None:
        """Removes a job that is not live any more from all that is kept beside the live jobs and the queue."""

    def set_due(self, job: Job[W], now: float) -> None:
        """Sets when a job has to be checked again."""
        self.timers.set(job, self.outlook.changes_at(job, now))

    def take_due(self, now: float) -> Iterable[Job[W]]:
        """The jobs that have to be checked now; each has to be set again, closed or finished."""
        return self.timers.take_due(now)

    def next_due(self) -> float | None:
        """The next time at which a job has to be checked; None without live jobs."""
        return self.timers.next_due()

    def finish(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Removes a live job and returns it as finished; empty if it is not live, so that each job is finished once."""
        if job not in self.live:
            return []
        self.live.remove(job)
        self.timers.remove(job)
        self.forget(job)
        job.progress = job.progress.settle()
        return [Finished(job, outcome)]


class BaseScheduler(ABC, Generic[W]):
    """The jobs of one pool.

    Methods that return `Finished` jobs leave it to the caller to settle these.
    """

    _pool: BasePool[W]
    batches_in_flight = 1
    """Of one slot; of more than one, a thread of the slot calls the model, and others prepare and merge."""

    def __init__(self, costs: CostModel, slots: int, workers: int) -> None:
        self.costs = costs
        self.slots = slots
        self.workers = workers

    # ---- jobs ----

    def admit(self, job: Job[W], now: float) -> None:
        """Adds a job.

        Raises Overloaded; BudgetTooSmall if an idle pool could not do its mandatory work in time; TooLarge if it
        exceeds the pool's bounds alone.
        """
        self._pool.live.admit(job, now)
        self._pool.arrivals.observe(job, self._plain_seconds(job, now), now)
        self._pool.set_due(job, now)

    def _plain_seconds(self, job: Job[W], now: float) -> float:
        """Seconds for the plain view of a job that was just admitted, with decoding and answer."""
        return self._pool.estimates.load(job, 1, now)

    def admit_all(self, jobs: Sequence[Job[W]], now: float) -> None:
        """Admits all of these jobs or none. Raises as `admit` does, and if an idle pool could not take all of them."""
        if len(jobs) > 1:
            self._pool.live.check_group(jobs, now)
        admitted: list[Job[W]] = []
        try:
            for job in jobs:
                self.admit(job, now)
                admitted.append(job)
        except TTAError as error:
            for job in admitted:
                self.cancel(job, now)
            if len(jobs) > 1 and isinstance(error, Overloaded):
                raise Overloaded(
                    str(error), max(error.retry_after, self._pool.live.group_wait(jobs, now)), error.reason
                ) from None
            raise

    @abstractmethod
    def quote(self, job: Job[W], now: float) -> Quote:
        """What the job would get now; nothing is admitted. Raises BudgetTooSmall or TooLarge as `admit` does."""

    def cancel(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Its client has left; a batch that still runs for it is ignored on return."""
        return self._pool.finish(job, Cancelled("the client has left"))

    def drop_all(self, error: TTAError) -> list[Finished[W]]:
        """Everything that is live, with the same error."""
        return [done for job in list(self._pool.live) for done in self._pool.finish(job, error)]

    def __len__(self) -> int:
        """How many jobs are live."""
        return len(self._pool.live)

    @abstractmethod
    def backlog(self) -> Backlog:
        """The live jobs: their number, slot seconds of waiting mandatory work, and bytes."""

    # ---- what a free slot or worker does next ----

    def asks_at(self, slot: int) -> float:
        """When this slot may call `next_batch`, at the earliest; infinity if it has to end a step before."""
        return -math.inf

    @abstractmethod
    def next_batch(self, slot: int, now: float) -> Step[W] | None:
        """The step that this free slot starts now; None if there is none."""

    @abstractmethod
    def next_chore(self, worker: int, now: float) -> Step[W] | None:
        """The answer or the decoding that this free worker starts now; None if there is none."""

    @property
    @abstractmethod
    def has_more_work(self) -> bool:
        """True if another free slot should call `next_batch`."""

    @property
    @abstractmethod
    def has_more_chores(self) -> bool:
        """True if another free worker should call `next_chore`."""

    # ---- results of steps ----

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """A job's image was decoded in `seconds`: its views may run."""
        job = decode.job
        self._pool.release(decode, now)
        self.costs.observe_stage("decode", job.model, job.pixels, seconds, now)
        job.phase = Phase.READY
        if job in self._pool.live:
            self._made_ready(job, now)

    def _made_ready(self, job: Job[W], now: float) -> None:
        self._pool.set_due(job, now)

    def prepared(self, batch: Batch[W], seconds: float, now: float) -> None:
        """The input of a batch was made in `seconds`, perhaps while another batch ran; call it before `completed`."""

    def limit_batches(self, model: str, largest: int) -> None:
        """The device has no memory for batches of more than `largest` views of a model."""
        self.costs.limit_batches(model, largest)

    @abstractmethod
    def completed(
        self, batch: Batch[W], outcomes: Mapping[Job[W], Outcome], seconds: float, now: float
    ) -> list[Finished[W]]:
        """A batch ran in `seconds`, with one outcome a job; its predictions are merged already."""

    def _apply(self, batch: Batch[W], outcomes: Mapping[Job[W], Outcome]) -> list[Finished[W]]:
        """Records the outcomes of a batch; returns the jobs that it ends."""
        finished: list[Finished[W]] = []
        for job, views in batch.views.items():
            job.progress = job.progress.end_run(views.bit_count())
            if job in self._pool.live:
                finished += self._apply_outcome(job, views, outcomes[job])
        return finished

    def _apply_outcome(self, job: Job[W], views: int, outcome: Outcome) -> list[Finished[W]]:
        if merged := views & ~outcome.lost:
            job.progress = job.progress.merge(merged).set_open_share(outcome.open_share)
            job.expected_gain, job.expected = outcome.expected_gain, outcome.expected
        if outcome.lost:
            job.lose(outcome.lost)
        if outcome.error and job.is_mandatory(outcome.lost):
            return self._pool.end(job, outcome.error)
        return self._pool.end(job, outcome.stop) if outcome.stop and job.is_answerable else []

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """A job's answer was made in `seconds`."""
        self.costs.observe_stage(job.finish, job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """A step failed as a whole.

        Ends the jobs in it: with an answer if all mandatory views are merged, with the error if a mandatory view
        failed. A job that lost only an optional view, while mandatory ones still run, continues.
        """
        self._pool.release(step, now)
        finished: list[Finished[W]] = []
        for job, views in [(step.job, 1)] if isinstance(step, Decode) else step.views.items():
            if isinstance(step, Batch):
                job.progress = job.progress.end_run(views.bit_count())
            if job not in self._pool.live:
                continue
            if job.is_answerable:
                finished += self._pool.end(job, StopReason.BACKEND_FAILED)
            elif job.is_mandatory(views):
                finished += self._pool.end(job, error)
            else:
                job.progress = job.progress.fail(views)
        return finished

    # ---- time ----

    def due(self, now: float) -> list[Finished[W]]:
        """Finishes the jobs whose time has come; call it at `wake_at` and before `next_batch`.

        A job that can't meet its deadline fails. A job that gets no more views in time is closed: its answer waits for
        a slot or worker, so wake the idle ones. It is returned here only if none is free in time for the answer.
        """
        return [done for job in self._pool.take_due(now) for done in self._settle_if_due(job, now)]

    @abstractmethod
    def _settle_if_due(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Closes, fails or answers a job whose time has come, or sets its next time."""

    def wake_at(self) -> float | None:
        """The next time to call `due`; None without live jobs."""
        return self._pool.next_due()

    def overdue(self, now: float) -> list[Step[W]]:
        """The steps that run far past their estimates and should be aborted; each is returned once."""
        return self._pool.watchdog.overdue(now)

    def stuck(self, now: float) -> list[int]:
        """The slots whose step did not end long after it was aborted; each is returned once."""
        return self._pool.watchdog.stuck(now)

    def watch_at(self) -> float | None:
        """The next time to call `overdue` and `stuck`; None if no step runs."""
        return self._pool.watchdog.check_at()
