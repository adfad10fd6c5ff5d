"""What a protocol waits for and cancels: an image that will be answered."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Job
from tta_server.serving.answer import Answer
from tta_server.serving.job import ImageJob
from tta_server.serving.pools import Pools


class Ticket(Protocol):
    """An accepted image; `future` has its answer or raises its TTAError."""

    @property
    def future(self) -> Future[Answer]: ...

    @property
    def model(self) -> Model: ...

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        """The number of merged entries and the answer from them, if more than `seen` are merged, else None."""

    def cancel(self) -> bool:
        """Ends the work for a client that has left. False if there was none to end any more."""


@dataclass(frozen=True, slots=True)
class RunTicket:
    """The ticket of a job."""

    future: Future[Answer]
    job: Job[ImageJob]
    pools: Pools

    @property
    def model(self) -> Model:
        return self.job.payload.model

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        return self.job.payload.partial(self.job, seen)

    def cancel(self) -> bool:
        return self.pools.cancel(self.job)
