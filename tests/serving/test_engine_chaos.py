"""Any call of the engine may raise an unexpected error: jobs are still settled once, and no thread ends silently."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.serving import PATIENCE, until
from tests.support.simulator import PIXELS, A, cost_model, linear
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, InternalError, InvalidInput, TTAError
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import MERGED, Job, Outcome, views_by_job
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.engine import Engine
from tta_server.serving.health import Health
from tta_server.serving.recorder import Recorder
from tta_server.serving.slot_thread import Call
from tta_server.telemetry.prometheus import Metrics

SURVIVED = ["work.decode", "work.settle", "runner.run"]
"""A job's own calls cost the job at most."""
SCHEDULER = (
    "admit_all asks_at cancel completed due failed finished has_more_work next_batch overdue prepared ready stuck "
    "wake_at watch_at"
)
FATAL = [
    *(f"scheduler.{call}" for call in SCHEDULER.split()),
    "observer.notify",
    *(f"health.{call}" for call in ("failed", "worked")),
]
"""After these the scheduler's state is unknown."""


class Unforeseen(Exception):
    pass


class Misplaced(TTAError):
    """An error of the project's own, from where none is expected."""


class Wires:
    """Counts calls by name, and raises at one of them."""

    def __init__(self, trip: str = "", number: int = 1, error: type[Exception] = Unforeseen) -> None:
        self.calls: dict[str, int] = {}
        self._trip = trip, number
        self._error = error
        self._lock = threading.Lock()

    def touch(self, name: str) -> None:
        with self._lock:
            self.calls[name] = self.calls.get(name, 0) + 1
            if (name, self.calls[name]) == self._trip:
                raise self._error(name)


class Wired:
    """Something real, each call of which touches a wire first."""

    def __init__(self, wires: Wires, name: str, target: Any, *properties: str) -> None:
        self._wires, self._name, self._target, self._properties = wires, name, target, properties

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._target, attribute)
        if attribute in self._properties:
            self._wires.touch(f"{self._name}.{attribute}")
        if not callable(found):
            return found

        def call(*given: Any) -> Any:
            self._wires.touch(f"{self._name}.{attribute}")
            return found(*given)

        return call


class Work:
    def __init__(self, wires: Wires, broken: bool = False) -> None:
        self._wires, self._broken = wires, broken
        self.outcomes: list[StopReason | TTAError] = []
        self.done = threading.Event()

    def decode(self) -> None:
        self._wires.touch("work.decode")
        if self._broken:
            raise InvalidInput("not an image")

    def notify_progress(self, progress: Progress) -> None:
        pass

    def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
        self._wires.touch("work.settle")
        self.outcomes.append(outcome)
        self.done.set()


class Runner:
    """Some views are lost, some batches fail, and one takes too long for a job that waits behind it."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._count = 0
        self._lock = threading.Lock()

    def run(
        self, items: Sequence[tuple[Job[Work], int]], recorder: Recorder, abort: Abort, call: Call
    ) -> Mapping[Job[Work], Outcome]:
        self._wires.touch("runner.run")
        with self._lock:
            self._count += 1
            number = self._count
        if number % 7 == 5:
            raise RuntimeError("a driver fell over")
        if number % 6 == 4:
            return {job: Outcome(views, BackendFailed("NaN")) for job, views in views_by_job(items).items()}
        return {job: MERGED for job, _ in items}


class Shop:
    """An engine whose every call is wired."""

    def __init__(self, wires: Wires, workers: int = 0) -> None:
        self.wires = wires
        self.health = Health()
        self.fatal: list[str] = []
        costs = cost_model({A: linear(20)})
        real: Any = DeviceScheduler[Work](costs, DeviceSlots(1), workers) if workers else Scheduler[Work](costs, 2)
        scheduler = Wired(wires, "scheduler", real, "has_more_work", "has_more_chores")
        observer, health = Wired(wires, "observer", Metrics()), Wired(wires, "health", self.health)
        parts: Any = scheduler, {"m": Runner(wires)}, observer, health, self.fatal.append
        self.engine: Engine[Work] = Engine(*parts)
        self.engine.start()
        self.admitted: list[Work] = []

    def submit(self, broken: bool = False, views: int = 3, budget: float = 30.0) -> Job[Work] | None:
        """None where it is refused, or where the engine has failed."""
        work = Work(self.wires, broken)
        job = Job(work, "m", (A,) * views, 1, time.monotonic() + budget, PIXELS)
        try:
            self.engine.submit([job])
        except TTAError:
            return None
        self.admitted.append(work)
        return job

    def visit(self) -> None:
        """What clients do all day."""
        for number in range(14):
            job = self.submit(broken=number % 5 == 3)
            if job and number % 4 == 2:
                try:
                    self.engine.cancel(job)
                except InternalError:
                    assert self.fatal
        self.submit(views=1, budget=0.021)


@contextmanager
def opened(wires: Wires, workers: int = 0) -> Iterator[Shop]:
    shop = Shop(wires, workers)
    yield shop
    shop.engine.drain(PATIENCE)
    alive = shop.engine._threads.alive()
    assert not alive, "a thread goes on"


def check_settled(shop: Shop) -> None:
    for work in shop.admitted:
        assert work.done.wait(PATIENCE), "a job was never settled"
    assert all(len(work.outcomes) == 1 for work in shop.admitted)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("name", SURVIVED)
def test_what_a_job_raises_costs_that_job_at_most(name: str, number: int) -> None:
    with opened(Wires(name, number)) as shop:
        shop.visit()
        check_settled(shop)
        assert not shop.fatal
        after = shop.submit()
        assert after
        assert after.payload.done.wait(PATIENCE)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("name", FATAL)
def test_what_the_shell_cannot_survive_settles_all_and_is_said(name: str, number: int) -> None:
    wires = Wires(name, number)
    with opened(wires) as shop:
        shop.visit()
        if wires.calls.get(name, 0) >= number:  # how often some are called depends on the threads
            until(lambda: shop.fatal)
        check_settled(shop)
        if shop.fatal:
            assert shop.fatal == [shop.health.fatal]
            with pytest.raises(InternalError, match="restarted"):
                shop.engine.submit([Job(Work(wires), "m", (A,), 1, time.monotonic() + 30, PIXELS)])


@pytest.mark.parametrize("name", ["scheduler.next_chore", "scheduler.has_more_chores", "scheduler.completed"])
def test_what_a_worker_cannot_survive_settles_all_and_is_said(name: str) -> None:
    with opened(Wires(name, 3), workers=2) as shop:
        shop.visit()
        until(lambda: shop.fatal)
        check_settled(shop)


def test_what_a_job_raises_on_a_worker_costs_that_job_at_most() -> None:
    with opened(Wires("work.decode", 2), workers=2) as shop:
        shop.visit()
        check_settled(shop)
        assert not shop.fatal


@pytest.mark.parametrize("name", ["scheduler.completed", "scheduler.next_batch", "scheduler.due", "observer.notify"])
def test_an_error_of_our_own_ends_no_thread_silently(name: str) -> None:
    with opened(Wires(name, 1, Misplaced)) as shop:
        shop.visit()
        until(lambda: shop.fatal)
        check_settled(shop)


def test_the_lists_above_have_every_call_that_the_engine_makes() -> None:
    wires = Wires()
    known = {*SURVIVED, *FATAL}
    with opened(wires) as shop:
        shop.visit()
        check_settled(shop)
    assert set(wires.calls) <= known | {"scheduler.drop_all"}
    assert known - {"scheduler.more"} <= set(wires.calls), "which only some runs of the threads need"
