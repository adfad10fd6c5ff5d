"""An engine for a device: one thread calls the model, with two batches in flight; what memory and faults cost."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from tests.support.simulator import PIXELS, A, cost_model, flat
from tests.support.works import PATIENCE, PaperWork
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, DeviceLost, OutOfDeviceMemory
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import MERGED, Batch, Job, Outcome
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.engine import Engine
from tta_server.serving.health import Health
from tta_server.serving.recorder import LockedRecorder, Recorder
from tta_server.serving.slot_thread import Call, SlotThread
from tta_server.serving.steps import BatchResult, StepRunner
from tta_server.telemetry.prometheus import Metrics

pytestmark = pytest.mark.timing

BUDGET = 30.0

Items = Sequence[tuple[Job[PaperWork], int]]


class Device:
    """Merges every view; `prepare` is called before the model is, and `infer` as the model."""

    def __init__(self, infer: Callable[[int], None], prepare: Callable[[], None] = lambda: None) -> None:
        self._infer, self._prepare = infer, prepare

    def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Mapping[Job[PaperWork], Outcome]:
        self._prepare()
        call(lambda: self._infer(len(items)))
        for job, view in items:
            recorder.merge(job, 1 << view)
        return {job: MERGED for job, _ in items}


class Opened:
    """An engine of one slot and two workers; its slot may ask for the next batch as soon as one runs."""

    def __init__(self, device: Device) -> None:
        self.health, self.fatal = Health(), list[str]()
        self.scheduler: DeviceScheduler[PaperWork] = DeviceScheduler(
            cost_model({A: flat(5)}), DeviceSlots(1, prepare=1.0), 2
        )
        self.engine = Engine(self.scheduler, {"m": device}, Metrics(), self.health, self.fatal.append)
        self.engine.start()

    def submit(self, views: int = 1) -> PaperWork:
        work = PaperWork()
        self.engine.submit([Job(work, "m", (A,) * views, 1, time.monotonic() + BUDGET, PIXELS)])
        return work


@pytest.fixture
def opened() -> Iterator[Callable[[Device], Opened]]:
    engines: list[Opened] = []

    def open_one(device: Device) -> Opened:
        engines.append(Opened(device))
        return engines[-1]

    yield open_one
    for each in engines:
        each.engine.drain(0)


def test_one_thread_calls_the_model_whoever_prepares(opened: Callable[[Device], Opened]) -> None:
    callers, preparers = set[int](), set[int]()
    device = Device(lambda rows: callers.add(threading.get_ident()), lambda: preparers.add(threading.get_ident()))
    shop = opened(device)
    works = [shop.submit(views=3) for _ in range(60)]
    assert {work.outcome for work in works} == {StopReason.ALL_VIEWS}
    assert len(callers) == 1
    assert not callers & preparers


def test_the_next_batch_is_prepared_while_one_runs_and_no_third(opened: Callable[[Device], Opened]) -> None:
    prepared, may_end = threading.Semaphore(0), threading.Event()
    shop = opened(Device(lambda rows: _wait(may_end), prepared.release))
    first = shop.submit()
    assert prepared.acquire(timeout=PATIENCE)
    second = shop.submit()
    assert prepared.acquire(timeout=PATIENCE), "the first one still runs"
    third = shop.submit()
    assert not first.done.is_set()
    assert shop.scheduler.asks_at(0) == float("inf"), "two are in flight"
    may_end.set()
    assert {work.outcome for work in (first, second, third)} == {StopReason.ALL_VIEWS}


def _wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_a_batch_too_large_for_the_device_runs_in_halves_and_its_size_no_more(
    opened: Callable[[Device], Opened],
) -> None:
    """The device has memory for three views: 8 run as 2 and 2, twice, and then sizes over 2 are off the ladder."""
    sizes: list[int] = []

    def infer(rows: int) -> None:
        sizes.append(rows)
        if rows > 3:
            raise OutOfDeviceMemory("no memory for them")

    shop = opened(Device(infer))
    assert shop.submit(views=8).outcome is StopReason.ALL_VIEWS
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert shop.scheduler.costs.rungs(A) == [1, 2]
    sizes.clear()
    assert shop.submit(views=8).outcome is StopReason.ALL_VIEWS
    assert max(sizes) == 2
    assert not shop.fatal


def test_a_device_without_memory_for_one_view_fails_the_job(opened: Callable[[Device], Opened]) -> None:
    def infer(rows: int) -> None:
        raise OutOfDeviceMemory("no memory")

    shop = opened(Device(infer))
    assert isinstance(shop.submit(views=4).outcome, OutOfDeviceMemory)


def test_a_lost_device_fails_its_batch_and_ends_the_process(opened: Callable[[Device], Opened]) -> None:
    def infer(rows: int) -> None:
        raise DeviceLost("an illegal memory access")

    shop = opened(Device(infer))
    assert isinstance(shop.submit().outcome, DeviceLost)
    shop.engine.drain(PATIENCE)
    assert shop.fatal == ["the device is lost (an illegal memory access): the server has to be restarted"]
    assert shop.health.fatal == shop.fatal[0]


@pytest.fixture
def slot() -> Iterator[SlotThread]:
    thread = SlotThread("device-0")
    thread.thread.start()
    yield thread
    thread.stop()
    thread.thread.join(PATIENCE)
    assert not thread.thread.is_alive()


def test_a_turn_returns_what_a_call_returns_and_raises_what_it_raises(slot: SlotThread) -> None:
    turn = slot.turn()
    assert turn.call(lambda: threading.current_thread().name) == "device-0"
    with pytest.raises(ZeroDivisionError):
        turn.call(lambda: 1 // 0)


def test_batches_reach_the_device_in_the_order_of_their_turns(slot: SlotThread) -> None:
    """The second one is prepared first; the third one takes its turn after one that ends without a call."""
    order: list[int] = []
    turns = [slot.turn() for _ in range(4)]
    late = [threading.Thread(target=turns[n].call, args=(lambda n=n: order.append(n),)) for n in (3, 1)]
    for thread in late:
        thread.start()
    assert not order
    turns[2].end()
    turns[0].call(lambda: order.append(0))
    for thread in late:
        thread.join(PATIENCE)
    assert order == [0, 1, 3]


def test_a_call_after_the_end_fails_and_waits_for_nothing(slot: SlotThread) -> None:
    slot.stop()
    with pytest.raises(BackendFailed, match="shutting down"):
        slot.turn().call(lambda: None)


def test_a_lost_device_is_not_taken_for_a_run_that_was_stopped(opened: Callable[[Device], Opened]) -> None:
    class Aborted(Device):
        def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Mapping[Job[PaperWork], Outcome]:
            abort.request()
            raise DeviceLost("the context is gone")

    shop = opened(Aborted(lambda rows: None))
    assert isinstance(shop.submit().outcome, DeviceLost)
    shop.engine.drain(PATIENCE)
    assert shop.fatal


def test_a_half_that_fails_costs_the_other_half_nothing() -> None:
    """The device has memory for two views at once; of a batch of four the second pair fails."""
    sizes: list[int] = []

    def infer(rows: int) -> None:
        sizes.append(rows)
        if rows > 2:
            raise OutOfDeviceMemory("no memory")
        if len(sizes) == 3:
            raise BackendFailed("it broke")

    runner = StepRunner({"m": Device(infer)}, LockedRecorder(threading.Lock()), Metrics(), Health(), lambda: False)
    jobs = [Job(PaperWork(), "m", (A,), 1, BUDGET, PIXELS) for _ in range(4)]
    result = runner.run(Batch(0, A, tuple((job, 0) for job in jobs), 0.1, rows=4), Abort())
    assert isinstance(result, BatchResult)
    assert [result.outcomes[job].lost for job in jobs] == [0, 0, 1, 1]
    assert result.limit == 3


@pytest.mark.parametrize("fails", [0, 1])
def test_a_job_in_both_halves_keeps_what_the_half_that_ran_found(fails: int) -> None:
    """The device has memory for one view at once; the stop rule decides after the one that runs."""
    calls: list[int] = []

    class Deciding(Device):
        def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Mapping[Job[PaperWork], Outcome]:
            if len(items) > 1:
                raise OutOfDeviceMemory("no memory")
            calls.append(items[0][1])
            if items[0][1] == fails:
                raise BackendFailed("it broke")
            return {items[0][0]: Outcome(expected_gain=0.25, stop=StopReason.CERTAIN)}

    device = Deciding(lambda rows: None)
    runner = StepRunner({"m": device}, LockedRecorder(threading.Lock()), Metrics(), Health(), lambda: False)
    job = Job(PaperWork(), "m", (A, A), 1, BUDGET, PIXELS)
    result = runner.run(Batch(0, A, ((job, 0), (job, 1)), 0.1, rows=2), Abort())
    assert isinstance(result, BatchResult)
    outcome = result.outcomes[job]
    assert calls == [0, 1]
    assert (outcome.lost, str(outcome.error)) == (1 << fails, "it broke")
    assert (outcome.stop, outcome.expected_gain) == (StopReason.CERTAIN, 0.25)
