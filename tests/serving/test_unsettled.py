"""Each job is settled once, from any number of threads, whatever it raises."""

import math
import threading
from typing import Any

import pytest

from tests.support.simulator import PIXELS, A
from tta_server.errors import InternalError, TTAError
from tta_server.scheduling.jobs import Finished, Job
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.unsettled import Unsettled

DONE = StopReason.ALL_VIEWS


class Work:
    """Raises as often as `raises` says, then keeps what it is settled with."""

    def __init__(self, raises: int = 0) -> None:
        self._raises = raises
        self.outcomes: list[StopReason | TTAError] = []

    def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
        if self._raises:
            self._raises -= 1
            raise LookupError("unexpected")
        self.outcomes.append(outcome)


def of(*works: Work) -> tuple[Unsettled[Work], list[Job[Work]]]:
    jobs = [Job(work, "m", (A,), 1, math.inf, PIXELS) for work in works]
    unsettled: Unsettled[Work] = Unsettled()
    unsettled.add(jobs)
    return unsettled, jobs


def test_of_many_threads_one_settles_a_job() -> None:
    works = [Work() for _ in range(200)]
    unsettled, jobs = of(*works)
    start, settled = threading.Barrier(4), list[int]()

    def ask() -> None:
        start.wait()
        settled.append(sum(unsettled.settle(Finished(job, DONE)) for job in jobs))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(settled) == len(jobs)
    assert all(work.outcomes == [DONE] for work in works)
    assert not unsettled


def test_what_was_never_added_is_not_settled() -> None:
    _, (job,) = of(Work())
    other, _ = of()
    assert not other.settle(Finished(job, DONE))
    assert not job.payload.outcomes


def test_an_answer_that_can_not_be_delivered_is_reported() -> None:
    work = Work(raises=1)
    unsettled, (job,) = of(work)
    assert unsettled.settle(Finished(job, DONE))
    assert [type(outcome) for outcome in work.outcomes] == [InternalError]


def test_where_that_fails_too_it_is_raised_and_the_others_are_still_reported() -> None:
    hopeless, good = Work(raises=4), Work()
    unsettled, (first, second) = of(hopeless, good)
    with pytest.raises(LookupError):
        unsettled.settle(Finished(first, DONE))
    unsettled, (first, second) = of(hopeless, good)
    unsettled.fail_all(InternalError("over"))
    assert [str(outcome) for outcome in second.payload.outcomes] == ["over"]
    assert not unsettled


def test_closed_progress_takes_no_more_views() -> None:
    unsettled, jobs = of(Work(), Work())
    unsettled.close_progress()
    assert [job.merge(0) for job in jobs] == [None, None]
