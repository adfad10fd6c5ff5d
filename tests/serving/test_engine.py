"""The engine with hand-written works and runners: whatever they do, each job is settled exactly once."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.support.serving import until
from tests.support.simulator import PIXELS, A, cost_model, flat, linear
from tests.support.works import PATIENCE, PaperWork, nothing
from tta_server.backends.cancel import Abort
from tta_server.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    TTAError,
    WrongDeclaration,
)
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import MERGED, Batch, Bounds, Job, Outcome
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.engine import Engine
from tta_server.serving.health import FAILURES, Health
from tta_server.serving.recorder import LockedRecorder, Recorder
from tta_server.serving.slot_thread import Call
from tta_server.serving.steps import Runner, StepRunner
from tta_server.telemetry.prometheus import Metrics

pytestmark = pytest.mark.timing


def nothing_of(reason: str) -> None:
    pass


Items = Sequence[tuple[Job[PaperWork], int]]
Outcomes = Mapping[Job[PaperWork], Outcome]


def merged(items: Items) -> Outcomes:
    return {job: MERGED for job, _ in items}


def without(items: Items, is_lost: Callable[[int], bool], error: TTAError) -> Outcomes:
    """The outcomes of a batch in which these views are lost; `is_lost` is asked by their place in the batch."""
    lost = {job: 0 for job, _ in items}
    for place, (job, view) in enumerate(items):
        lost[job] |= is_lost(place) << view
    return {job: Outcome(views, error if views else None) for job, views in lost.items()}


def held(started: threading.Event, release: threading.Event) -> Callable[[Items], Outcomes]:
    """Says when a batch has started, and ends it once `release` is set."""

    def behave(items: Items) -> Outcomes:
        started.set()
        release.wait(PATIENCE)
        return merged(items)

    return behave


class PaperRunner:
    """Does with a batch what the test says."""

    def __init__(self, behave: Callable[[Items], Outcomes]) -> None:
        self.behave = behave

    def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Outcomes:
        return self.behave(items)


class EndlessRunner:
    """Batches with one of these views run until they are aborted, and `aborted` counts that; others end at once."""

    def __init__(self, *views: int) -> None:
        self._views = views
        self.aborted = 0
        self.started = threading.Event()

    def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Outcomes:
        if not any(view in self._views for _, view in items):
            return merged(items)
        end = threading.Event()
        abort.on_request(end.set)
        self.started.set()
        assert end.wait(PATIENCE), "it was not aborted"
        self.aborted += 1
        raise BackendFailed("terminated")


Opener = Callable[..., Engine[PaperWork]]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens engines, and closes them when the test is over."""
    engines: list[Engine[PaperWork]] = []

    def open_one(
        behave: Callable[[Items], Outcomes] = merged,
        slots: int = 2,
        view_ms: float = 1.0,
        bounds: Bounds | None = None,
        curve: Mapping[int, float] | None = None,
        runner: Runner[PaperWork] | None = None,
        metrics: Metrics | None = None,
        health: Health | None = None,
        on_fatal: Callable[[str], None] = nothing_of,
        workers: int = 0,
    ) -> Engine[PaperWork]:
        costs, limits = cost_model({A: curve or linear(view_ms)}), bounds or Bounds()
        scheduler: BaseScheduler[PaperWork] = (
            DeviceScheduler(costs, DeviceSlots(slots), workers, limits) if workers else Scheduler(costs, slots, limits)
        )
        runners = {"m": runner or PaperRunner(behave)}
        engine = Engine(scheduler, runners, metrics or Metrics(), health or Health(), on_fatal)
        engine.start()
        engines.append(engine)
        return engine

    yield open_one
    for engine in engines:
        engine.drain(0)


def job(work: PaperWork, views: int = 1, mandatory: int = 1, budget: float = 30.0) -> Job[PaperWork]:
    return Job(work, "m", (A,) * views, mandatory, time.monotonic() + budget, PIXELS)


# ---- laws ----


@pytest.mark.parametrize(("slots", "workers"), [(1, 0), (2, 0), (4, 0), (1, 1), (1, 3), (2, 2)])
def test_each_of_many_jobs_of_many_clients_is_settled_once(opened: Opener, slots: int, workers: int) -> None:
    engine = opened(slots=slots, workers=workers)
    works = [PaperWork() for _ in range(200)]

    def client(mine: list[PaperWork]) -> None:
        for work in mine:
            engine.submit([job(work, views=3)])

    clients = [threading.Thread(target=client, args=(works[k::5],)) for k in range(5)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert {work.outcome for work in works} == {StopReason.ALL_VIEWS}
    engine.drain(PATIENCE)
    assert all(len(work.outcomes) == 1 for work in works)


@pytest.mark.parametrize("workers", [0, 2])
def test_trouble_of_every_kind_settles_each_job_once(opened: Opener, workers: int) -> None:
    """Every third decode raises, every fifth batch raises, every seventh view is lost."""
    count = 0
    lock = threading.Lock()

    def behave(items: Items) -> Outcomes:
        nonlocal count
        with lock:
            count += 1
            number = count
        if number % 5 == 0:
            raise RuntimeError("a driver fell over")
        return without(items, lambda place: (number + place) % 7 == 0, BackendFailed("NaN"))

    def broken() -> None:
        raise InvalidInput("not an image")

    engine = opened(behave, workers=workers)
    works = [PaperWork(broken if k % 3 == 0 else nothing) for k in range(90)]
    jobs = [job(work, views=4, mandatory=2) for work in works]
    for number, one in enumerate(jobs):
        engine.submit([one])
        if number % 4 == 0:
            engine.cancel(one)
    outcomes = [work.outcome for work in works]
    engine.drain(PATIENCE)
    assert all(len(work.outcomes) == 1 for work in works)
    assert all(isinstance(outcome, StopReason | TTAError) for outcome in outcomes)


def test_jobs_of_one_request_are_admitted_all_or_none(opened: Opener) -> None:
    """One slot is busy for a second, and two images of a second each have a budget of one and a half.

    The first would fit on the idle slot, but not both.
    """
    decoded, runner = threading.Event(), EndlessRunner(0)
    engine = opened(runner=runner, slots=2, view_ms=1000)
    engine.submit([job(PaperWork())])
    assert runner.started.wait(PATIENCE)
    for _ in range(5):
        with pytest.raises(Overloaded):
            engine.submit([job(PaperWork(decoded.set), budget=1.5) for _ in range(2)])
    assert engine.backlog().jobs == 1
    engine.drain(0)
    assert not decoded.is_set()


def test_a_client_that_leaves_frees_the_work_that_was_held_back_for_it(opened: Opener) -> None:
    """A slot that is free leaves the second image alone, since it would make the first late, which is being decoded."""
    decoding, release, second = threading.Event(), threading.Event(), PaperWork()

    def decode() -> None:
        decoding.set()
        release.wait(PATIENCE)

    engine = opened(slots=2, view_ms=1000)
    first = job(PaperWork(decode), views=2, mandatory=2, budget=1.2)
    engine.submit([first])
    assert decoding.wait(PATIENCE)
    engine.submit([job(second, budget=30)])
    engine.cancel(first)
    assert isinstance(second.outcome, StopReason)
    release.set()


def test_closing_after_an_early_answer_tells_of_no_failed_batch(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """A view that still runs for a client that left is ended when the engine closes: nothing went wrong."""
    metrics, runner = Metrics(), EndlessRunner(0)
    engine = opened(runner=runner, slots=1, metrics=metrics)
    work = PaperWork()
    leaving = job(work)
    engine.submit([leaving])
    assert runner.started.wait(PATIENCE)
    engine.cancel(leaving)
    engine.drain(PATIENCE)
    assert runner.aborted == 1
    assert faults(metrics) == {}
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_workers_decode_and_make_answers_while_the_slot_runs_batches(opened: Opener) -> None:
    threads: dict[str, set[str]] = {"decode": set(), "run": set(), "settle": set()}

    def note(what: str) -> None:
        threads[what].add(threading.current_thread().name.partition("-")[0])

    class Noting(PaperWork):
        def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
            note("settle")
            super().settle(outcome, job)

    def behave(items: Items) -> Outcomes:
        note("run")
        return merged(items)

    engine = opened(behave, slots=1, workers=2, curve=flat(1))
    works = [Noting(lambda: note("decode")) for _ in range(40)]
    for work in works:
        engine.submit([job(work, views=4)])
    assert {work.outcome for work in works} == {StopReason.ALL_VIEWS}
    assert threads == {"decode": {"worker"}, "run": {"slot"}, "settle": {"worker"}}


def test_an_image_is_decoded_while_the_device_is_busy(opened: Opener) -> None:
    started, release, decoded = threading.Event(), threading.Event(), threading.Event()
    engine = opened(held(started, release), slots=1, workers=1)
    engine.submit([job(PaperWork())])
    assert started.wait(PATIENCE)
    engine.submit([job(PaperWork(decoded.set))])
    assert decoded.wait(PATIENCE)
    release.set()


def test_an_answer_that_waits_is_made_by_a_slot(opened: Opener) -> None:
    """The clock finds that the first job gets no more views in time.

    Its second view is estimated at 20 s, and another job's run holds the only other slot.
    """
    threads: list[str] = []

    class Named(PaperWork):
        def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
            threads.append(threading.current_thread().name)
            super().settle(outcome, job)

    work = Named()
    opened(slots=2, view_ms=50).submit([job(work, views=200, budget=1.0)])
    assert isinstance(work.outcome, StopReason)
    assert threads[0].startswith("slot-")


# ---- processes ----


def test_after_a_fork_it_says_so_and_takes_no_lock(opened: Opener) -> None:
    engine = opened()
    with engine._lock:  # as a slot's thread may hold it while the process forks
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)  # ends a child that waits for a lock for ever
            os._exit(_in_the_child(engine))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    work = PaperWork()
    engine.submit([job(work)])
    assert work.outcome is StopReason.ALL_VIEWS


def _in_the_child(engine: Engine[PaperWork]) -> int:
    try:
        engine.submit([job(PaperWork())])
    except NotReady as error:
        engine.drain(PATIENCE)
        return 0 if "fork" in str(error) else 1
    return 2


# ---- faults ----


@pytest.mark.parametrize(
    ("error", "suspect"),
    [(BackendFailed("it failed"), True), (WrongDeclaration("no such class", "boxes.classes"), False)],
)
def test_an_output_that_tta_yaml_does_not_mean_is_no_failure_of_the_model(error: BackendFailed, suspect: bool) -> None:
    """A model that is suspect is probed; `wait_for_work` returns at once then, or once it is closed."""
    health = Health()
    runner = PaperRunner(lambda items: without(items, lambda place: True, error))
    steps: StepRunner[PaperWork] = StepRunner(
        {"m": runner}, LockedRecorder(threading.Lock()), Metrics(), health, lambda: False
    )
    for _ in range(FAILURES):
        steps.run(Batch(0, A, ((job(PaperWork()), 0),), estimate=1.0), Abort())
    if not suspect:
        health.request_reprice("other")
    assert health.wait_for_work()[0] == (["m"] if suspect else [])


@pytest.mark.parametrize(
    ("raised", "settled"),
    [
        (InvalidInput("broken"), InvalidInput),
        (RuntimeError("secret /path"), BackendFailed),
        (MemoryError(), BackendFailed),
    ],
)
def test_a_decode_that_raises_fails_its_job_and_the_slot_goes_on(
    opened: Opener, raised: Exception, settled: type[TTAError]
) -> None:
    def broken() -> None:
        raise raised

    engine = opened(slots=1)
    bad, good = PaperWork(broken), PaperWork()
    engine.submit([job(bad)])
    engine.submit([job(good)])
    assert isinstance(bad.outcome, settled)
    assert "secret" not in str(bad.outcome)
    assert good.outcome is StopReason.ALL_VIEWS


@pytest.mark.parametrize("raised", [BackendFailed("it failed"), RuntimeError("secret /path"), ValueError("secret")])
def test_a_run_that_raises_fails_its_job_and_the_slot_goes_on(opened: Opener, raised: Exception) -> None:
    first = True

    def behave(items: Items) -> Outcomes:
        nonlocal first
        if first:
            first = False
            raise raised
        return merged(items)

    engine = opened(behave, slots=1)
    bad, good = PaperWork(), PaperWork()
    engine.submit([job(bad)])
    assert isinstance(bad.outcome, BackendFailed)
    assert "secret" not in str(bad.outcome)
    engine.submit([job(good)])
    assert good.outcome is StopReason.ALL_VIEWS


def test_a_run_that_raises_after_the_mandatory_view_answers_with_what_there_is(opened: Opener) -> None:
    def behave(items: Items) -> Outcomes:
        if any(view for _, view in items):
            raise RuntimeError("no more")
        return merged(items)

    work = PaperWork()
    opened(behave, slots=1, view_ms=50).submit([job(work, views=3)])
    assert work.outcome is StopReason.BACKEND_FAILED


def test_an_optional_run_that_raises_while_the_mandatory_one_goes_on_costs_only_itself(opened: Opener) -> None:
    raised = threading.Event()

    def behave(items: Items) -> Outcomes:
        if any(view for _, view in items):
            raised.set()
            raise RuntimeError("no more")
        assert raised.wait(PATIENCE)
        return merged(items)

    work = PaperWork()
    opened(behave, slots=2, view_ms=50).submit([job(work, views=4)])
    assert isinstance(work.outcome, StopReason)


@pytest.mark.parametrize(("lost", "expected"), [(0, BackendFailed), (2, StopReason)])
def test_a_mandatory_view_that_is_lost_fails_and_an_optional_one_is_left_out(
    opened: Opener, lost: int, expected: type
) -> None:
    error = BackendFailed("it could not be read")

    def behave(items: Items) -> Outcomes:
        return without(items, lambda place: items[place][1] == lost, error)

    work = PaperWork()
    opened(behave).submit([job(work, views=3)])
    assert isinstance(work.outcome, expected)
    if lost == 0:
        assert work.outcome is error


# ---- time ----


def test_a_job_is_answered_at_its_deadline_while_every_slot_is_stuck(opened: Opener) -> None:
    release = threading.Event()

    def behave(items: Items) -> Outcomes:
        if any(view for _, view in items):
            release.wait(PATIENCE)
        return merged(items)

    work = PaperWork()
    opened(behave, slots=1, view_ms=50).submit([job(work, views=3, budget=0.5)])
    try:
        assert work.outcome is StopReason.DEADLINE
    finally:
        release.set()


def test_a_job_whose_mandatory_view_is_stuck_fails_at_its_deadline(opened: Opener) -> None:
    release = threading.Event()

    def behave(items: Items) -> Outcomes:
        release.wait(PATIENCE)
        return merged(items)

    engine = opened(behave, slots=1)
    work, later = PaperWork(), PaperWork()
    engine.submit([job(work, budget=0.5)])
    try:
        assert not isinstance(work.outcome, StopReason)
    finally:
        release.set()
    engine.submit([job(later)])
    assert later.outcome is StopReason.ALL_VIEWS


def test_all_slots_work_on_one_job(opened: Opener) -> None:
    """Three slots meet in three views of one job, time after time, or the barrier breaks."""
    meeting = threading.Barrier(3)

    def behave(items: Items) -> Outcomes:
        meeting.wait(PATIENCE)
        return merged(items)

    engine = opened(behave, slots=3, view_ms=40)
    for _ in range(10):
        wide = PaperWork()
        engine.submit([job(wide, views=3, mandatory=3)])
        assert wide.outcome is StopReason.ALL_VIEWS


# ---- runs that take far too long ----


def faults(metrics: Metrics) -> dict[str, float]:
    """Failed batches by kind."""
    found = re.findall(r'^tta_faults_total{kind="(\w+)",model="m"} (\S+)$', metrics.text().decode(), re.MULTILINE)
    return {kind: float(count) for kind, count in found}


def test_a_run_far_past_its_estimate_is_ended_and_its_job_fails(opened: Opener) -> None:
    runner, metrics = EndlessRunner(0), Metrics()
    engine = opened(runner=runner, slots=1, metrics=metrics)
    work = PaperWork()
    engine.submit([job(work)])
    assert isinstance(work.outcome, BackendFailed)
    assert "far too long" in str(work.outcome)
    assert runner.aborted == 1
    assert faults(metrics) == {"ended": 1}


def test_an_ended_run_answers_the_jobs_that_have_a_merged_view(opened: Opener) -> None:
    """Slots of 50 ms a view run them one at a time; the second view never comes back by itself."""
    work = PaperWork()
    opened(runner=EndlessRunner(1), slots=1, view_ms=50).submit([job(work, views=3)])
    assert work.outcome is StopReason.BACKEND_FAILED


def test_no_job_waits_past_its_deadline_for_a_run_that_is_to_be_ended(opened: Opener) -> None:
    engine = opened(runner=EndlessRunner(0), slots=1)
    works = [PaperWork() for _ in range(3)]
    for work, budget in zip(works, (0.3, 0.5, 0.7), strict=True):
        engine.submit([job(work, budget=budget)])
    assert all(isinstance(work.outcome, DeadlineExceeded) for work in works)


def test_what_runs_as_long_as_estimated_is_left_alone(opened: Opener) -> None:
    """A view of 3 s is late after 30 s only, not after one."""

    def behave(items: Items) -> Outcomes:
        time.sleep(1.3)
        return merged(items)

    work, metrics = PaperWork(), Metrics()
    opened(behave, slots=1, view_ms=3000, metrics=metrics).submit([job(work)])
    assert work.outcome is StopReason.ALL_VIEWS
    assert faults(metrics) == {}


def test_closing_ends_abandoned_runs(opened: Opener) -> None:
    """Its client got its error at the deadline; the run would go on while the process ends."""
    runner = EndlessRunner(0)
    engine = opened(runner=runner, slots=1)
    work = PaperWork()
    engine.submit([job(work, budget=0.5)])
    assert isinstance(work.outcome, DeadlineExceeded)
    engine.drain(0.5)
    assert runner.aborted == 1


@pytest.mark.slow
def test_a_stuck_slot_is_reported_once_and_the_others_go_on(opened: Opener) -> None:
    release, reasons, health = threading.Event(), list[str](), Health()

    def behave(items: Items) -> Outcomes:
        if any(view == 1 for _, view in items):
            release.wait(2 * PATIENCE)
        return merged(items)

    engine = opened(behave, health=health, on_fatal=reasons.append, view_ms=50)
    work, other = PaperWork(), PaperWork()
    engine.submit([job(work, views=2, budget=0.5)])
    assert work.outcome is StopReason.DEADLINE
    try:
        until(lambda: reasons)
        assert health.fatal == reasons[0]
        engine.submit([job(other)])
        assert other.outcome is StopReason.ALL_VIEWS
    finally:
        release.set()
    assert len(reasons) == 1


# ---- models that fail time after time ----


@pytest.mark.parametrize(("lost", "failed"), [(None, True), (2, True), (1, False)])
def test_a_batch_that_raises_or_gives_nothing_but_nan_counts_against_its_model(
    opened: Opener, lost: int | None, failed: bool
) -> None:
    """A model that is marked stays so only after a batch of it has failed, and until one works."""
    health, works = Health(), iter([lost, 0])

    def behave(items: Items) -> Outcomes:
        number = next(works)
        if number is None:
            raise RuntimeError("it fell")
        return without(items, lambda place: place >= len(items) - number, BackendFailed("NaN"))

    engine = opened(behave, slots=1, health=health, curve=flat(1))
    for ill in ({"m"} if failed else set(), set()):
        work = PaperWork()
        engine.submit([job(work, views=2, mandatory=2)])
        assert work.outcome
        health.mark_unhealthy("m")
        assert health.unhealthy == ill


# ---- leaving ----


def test_a_job_cancelled_while_its_view_runs_is_settled_once(opened: Opener) -> None:
    started, release = threading.Event(), threading.Event()
    behave = held(started, release)
    engine = opened(behave, slots=1)
    work, other = PaperWork(), PaperWork()
    leaving = job(work, views=5)
    engine.submit([leaving])
    assert started.wait(PATIENCE)
    engine.cancel(leaving)
    engine.cancel(leaving)
    assert isinstance(work.outcome, Cancelled)
    release.set()
    engine.submit([job(other)])
    assert other.outcome is StopReason.ALL_VIEWS
    assert len(work.outcomes) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_whose_client_has_left_is_ended_and_blames_nobody(opened: Opener, workers: int) -> None:
    """A run of 3 s is overdue after 30 s only. The model is not suspect, and costs what it did before."""
    runner, health, metrics = EndlessRunner(0), Health(), Metrics()
    engine = opened(runner=runner, slots=1, curve=flat(3000), health=health, metrics=metrics, workers=workers)
    before = engine.quote(job(PaperWork(), budget=60))
    work = PaperWork()
    leaving = job(work, budget=60)
    engine.submit([leaving])
    assert runner.started.wait(PATIENCE)
    assert engine.quote(job(PaperWork(), budget=60)) != before
    engine.cancel(leaving)
    assert isinstance(work.outcome, Cancelled)
    until(lambda: engine.quote(job(PaperWork(), budget=60)) == before)
    assert runner.aborted == 1
    health.mark_unhealthy("m")
    assert not health.unhealthy
    assert faults(metrics) == {}


class SecondRunner(EndlessRunner):
    """The first batch waits for `release`, the others are endless."""

    def __init__(self) -> None:
        super().__init__(0)
        self.release = threading.Event()
        self.first = threading.Event()
        self.items: Items = ()

    def run(self, items: Items, recorder: Recorder, abort: Abort, call: Call) -> Outcomes:
        if not self.first.is_set():
            self.first.set()
            self.release.wait(PATIENCE)
            return merged(items)
        self.items, self.abort = items, abort
        return super().run(items, recorder, abort, call)


def test_a_batch_is_ended_once_the_last_of_its_clients_has_left(opened: Opener) -> None:
    """Jobs that are decoded while another batch runs are in one batch."""
    runner = SecondRunner()
    engine = opened(runner=runner, slots=1, curve=flat(3000), workers=1)
    engine.submit([job(PaperWork())])
    assert runner.first.wait(PATIENCE)
    decoded = [threading.Event() for _ in range(3)]
    jobs = [job(PaperWork(each.set), budget=60) for each in decoded]
    engine.submit(jobs)
    assert all(each.wait(PATIENCE) for each in decoded)
    engine.cancel(jobs[2])  # the only worker has reported the other two
    runner.release.set()
    assert runner.started.wait(PATIENCE)
    assert {each for each, _ in runner.items} == set(jobs[:2])
    engine.cancel(jobs[0])
    assert not runner.abort.requested
    engine.cancel(jobs[1])
    until(lambda: runner.aborted == 1)


def test_a_job_cancelled_before_decoding_is_never_decoded(opened: Opener) -> None:
    started, release, decoded = threading.Event(), threading.Event(), threading.Event()

    def behave(items: Items) -> Outcomes:
        started.set()
        release.wait(PATIENCE)
        return merged(items)

    engine = opened(behave, slots=1)
    first, second = PaperWork(), PaperWork(decoded.set)
    engine.submit([job(first)])
    assert started.wait(PATIENCE)
    leaving = job(second)
    engine.submit([leaving])
    engine.cancel(leaving)
    release.set()
    assert first.outcome is StopReason.ALL_VIEWS
    assert isinstance(second.outcome, Cancelled)
    engine.drain(PATIENCE)
    assert not decoded.is_set()


# ---- closing ----


def test_drain_refuses_new_jobs_and_finishes_the_admitted(opened: Opener) -> None:
    started, release = threading.Event(), threading.Event()
    behave = held(started, release)
    engine = opened(behave, slots=2)
    works = [PaperWork() for _ in range(20)]
    for work in works:
        engine.submit([job(work)])
    assert started.wait(PATIENCE)
    refused = threading.Event()

    def knock() -> None:
        """Submits until the engine says that it is closing, then lets the admitted views go on."""
        while not refused.is_set():
            extra = PaperWork()
            try:
                engine.submit([job(extra)])
            except NotReady:
                refused.set()
            except Overloaded:
                continue
            else:
                works.append(extra)
        release.set()

    visitor = threading.Thread(target=knock)
    visitor.start()
    engine.drain(PATIENCE)
    visitor.join()
    assert {work.outcome for work in works} == {StopReason.ALL_VIEWS}
    assert all(len(work.outcomes) == 1 for work in works)


def test_drain_gives_up_on_what_is_stuck_and_tells_its_client(opened: Opener) -> None:
    started, release = threading.Event(), threading.Event()
    behave = held(started, release)
    engine = opened(behave, slots=1)
    stuck, waiting = PaperWork(), PaperWork()
    engine.submit([job(stuck)])
    engine.submit([job(waiting)])
    assert started.wait(PATIENCE)
    engine.drain(0)
    assert isinstance(stuck.outcome, NotReady)
    assert isinstance(waiting.outcome, NotReady)
    release.set()


def test_drain_of_an_idle_engine_ends_at_once_and_twice_is_fine(opened: Opener) -> None:
    engine = opened()
    engine.drain(PATIENCE)
    engine.drain(PATIENCE)
    with pytest.raises(NotReady):
        engine.submit([job(PaperWork())])


def test_an_engine_that_was_never_started_drains() -> None:
    scheduler: Scheduler[PaperWork] = Scheduler(cost_model({A: linear(1)}), 1)
    engine = Engine(scheduler, {"m": PaperRunner(merged)}, Metrics(), Health())
    engine.drain(0)


def test_refusals_settle_nothing(opened: Opener) -> None:
    engine = opened(bounds=Bounds(nbytes=1))
    hasty, huge = PaperWork(), PaperWork()
    with pytest.raises(InvalidInput):
        engine.submit([job(hasty, budget=0.0001)])
    big = job(huge)
    big.nbytes = 2
    with pytest.raises(TTAError):
        engine.submit([big])
    engine.drain(PATIENCE)
    assert hasty.outcomes == huge.outcomes == []
