"""The laws of device pools hold in random histories, and each of these mistakes breaks its law."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support.device_histories import drawn, find_violation, is_steady, violation_of
from tests.support.device_laws import DeviceLaw
from tta_server.errors import TTAError
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.devices import batches
from tta_server.scheduling.devices.admission import DeviceAdmission
from tta_server.scheduling.devices.batches import BatchBuilder, Limits
from tta_server.scheduling.devices.bounds import DeviceQueue
from tta_server.scheduling.devices.open_views import OpenJob, OpenViews
from tta_server.scheduling.devices.pool import DevicePool
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.jobs import Batch, Finished, Job, Quote
from tta_server.scheduling.stopping import StopReason

SEED = "device bugs"
STEADY = (DeviceLaw.CAPACITY, DeviceLaw.SHRINKS, DeviceLaw.MONOTONE)
"""The laws of histories at a steady rate, which are long; other laws are looked for in short ones."""
HISTORIES = 3000

Mistake = Callable[[pytest.MonkeyPatch], None]
Items = list[tuple[Job[Any], int]]


@pytest.mark.parametrize("first", range(0, 500, 125))
def test_the_laws_hold(first: int) -> None:
    assert find_violation("0", range(first, first + 125)) is None


@pytest.mark.slow
@pytest.mark.parametrize("first", range(500, 10_000, 500))
def test_the_laws_hold_in_many_histories(first: int) -> None:
    assert find_violation("0", range(first, first + 500)) is None


# ---- mistakes in admission ----


def all_are_admitted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceAdmission, "_wait", lambda live, job, now: live._queue.price(job, now) or 0.0)


def decoding_seems_free(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.price

    def price(queue: DeviceQueue[Any], job: Job[Any], now: float) -> None:
        right(queue, job, now)
        job.decode_seconds = 0.0

    patch.setattr(DeviceQueue, "price", price)


def answers_seem_free(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.price

    def price(queue: DeviceQueue[Any], job: Job[Any], now: float) -> None:
        right(queue, job, now)
        job.answer_seconds = 0.0

    patch.setattr(DeviceQueue, "price", price)


def half_is_admitted(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.retry_after

    def retry_after(queue: DeviceQueue[Any], job: Job[Any], now: float) -> float:
        found = right(queue, job, now)
        return found or float(len(queue) > 4)

    patch.setattr(DeviceQueue, "retry_after", retry_after)


# ---- mistakes in batches ----


def optional_views_first(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.take

    def take(queue: DeviceQueue[Any], bucket: Bucket, most: int, now: float) -> Any:
        return right(queue, bucket, 1, now)

    patch.setattr(DeviceQueue, "take", take)


def depth_first(patch: pytest.MonkeyPatch) -> None:
    def all_of_one(jobs: Sequence[OpenJob[Any]], bucket: Bucket, room: int, answer_at: float, begun: object) -> Items:
        views: Items = []
        for job in (entry.job for entry in jobs if entry.answer_at >= answer_at):
            for view in range(job.dispatched, len(job.buckets)):
                if job.buckets[view] != bucket:
                    break
                views.append((job, view))
        return views[: max(0, room)]

    patch.setattr(batches, "_in_rounds", all_of_one)


def no_limits(patch: pytest.MonkeyPatch) -> None:
    right = BatchBuilder._limits

    def limits(builder: BatchBuilder[Any], *args: Any) -> Limits:
        return replace(right(builder, *args), latest=float("inf"))

    patch.setattr(BatchBuilder, "_limits", limits)


def padding_stays_empty(patch: pytest.MonkeyPatch) -> None:
    right = BatchBuilder._fill

    def fill(builder: BatchBuilder[Any], bucket: Bucket, items: Items, limits: Limits, now: float) -> Items:
        return [] if items else right(builder, bucket, items, limits, now)

    patch.setattr(BatchBuilder, "_fill", fill)


def optional_views_wait_for_all(patch: pytest.MonkeyPatch) -> None:
    right = BatchBuilder._build_optional

    def build(builder: BatchBuilder[Any], *args: Any) -> Batch[Any] | None:
        return None if len(builder.open_views) > 1 else right(builder, *args)

    patch.setattr(BatchBuilder, "_build_optional", build)


def another_bucket_first(patch: pytest.MonkeyPatch) -> None:
    def last(queue: DeviceQueue[Any]) -> Bucket | None:
        heads = [(jobs[0][0], bucket) for bucket, jobs in queue._ready.items()]
        return max(heads, default=(None, None))[1]

    patch.setattr(DeviceQueue, "first_bucket", last)


def refused_before_k_falls(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.retry_after

    def retry_after(queue: DeviceQueue[Any], job: Job[Any], now: float) -> float:
        return right(queue, job, now) or float(len(queue) > 1)

    patch.setattr(DeviceQueue, "retry_after", retry_after)


# ---- mistakes in what workers do, and in what becomes of jobs ----


def all_is_decoded_ahead(patch: pytest.MonkeyPatch) -> None:
    def next_decodable(queue: DeviceQueue[Any]) -> Job[Any] | None:
        return min((jobs[0] for jobs in queue._waiting.values()), default=(None, None))[1]

    patch.setattr(DeviceQueue, "_next_decodable", next_decodable)


def nothing_is_decoded_ahead(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue._next_decodable

    def next_decodable(queue: DeviceQueue[Any]) -> Job[Any] | None:
        return None if queue.has_ready else right(queue)

    patch.setattr(DeviceQueue, "_next_decodable", next_decodable)


def stop_rules_are_ignored(patch: pytest.MonkeyPatch) -> None:
    right = DevicePool.end

    def end(pool: DevicePool[Any], job: Job[Any], outcome: StopReason | TTAError) -> list[Finished[Any]]:
        return [] if outcome is StopReason.CERTAIN else right(pool, job, outcome)

    patch.setattr(DevicePool, "end", end)


def a_failure_fails_all(patch: pytest.MonkeyPatch) -> None:
    right = DeviceScheduler.failed

    def failed(scheduler: DeviceScheduler[Any], step: Any, error: TTAError, now: float) -> list[Finished[Any]]:
        finished = right(scheduler, step, error, now)
        if isinstance(step, Batch):
            finished += [done for job in dict(step.items) for done in scheduler._pool.finish(job, error)]
        return finished

    patch.setattr(DeviceScheduler, "failed", failed)


def who_leaves_stays_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DevicePool, "forget", lambda pool, job: None)


def more_workers_admit_less(patch: pytest.MonkeyPatch) -> None:
    right = DeviceQueue.retry_after

    def retry_after(queue: DeviceQueue[Any], job: Job[Any], now: float) -> float:
        crowded = len(queue) > 200 / queue._workers.number**2
        return right(queue, job, now) or float(crowded and queue._workers.number > 2)

    patch.setattr(DeviceQueue, "retry_after", retry_after)


def open_jobs_keep_their_first_place(patch: pytest.MonkeyPatch) -> None:
    right = OpenViews.put

    def put(views: OpenViews[Any], job: Job[Any]) -> None:
        if job not in views or job.all_dispatched or job.progress.stop:
            right(views, job)

    patch.setattr(OpenViews, "put", put)


def quotes_keep_work(patch: pytest.MonkeyPatch) -> None:
    """Each quote leaves a millisecond of work on the first slot."""
    right = DeviceScheduler.quote

    def quote(scheduler: DeviceScheduler[Any], job: Job[Any], now: float) -> Quote:
        found = right(scheduler, job, now)
        scheduler._pool.slots.take(0, max(now, scheduler._pool.slots.free_at(0, now)) + 0.001)
        return found

    patch.setattr(DeviceScheduler, "quote", quote)


MISTAKES: dict[Mistake, DeviceLaw] = {
    all_are_admitted: DeviceLaw.PROMISED,
    decoding_seems_free: DeviceLaw.PROMISED,
    answers_seem_free: DeviceLaw.PROMISED,
    half_is_admitted: DeviceLaw.CAPACITY,
    optional_views_first: DeviceLaw.MANDATORY_FIRST,
    depth_first: DeviceLaw.ROUNDS,
    no_limits: DeviceLaw.HARMLESS,
    padding_stays_empty: DeviceLaw.HARMLESS,
    optional_views_wait_for_all: DeviceLaw.BUSY,
    nothing_is_decoded_ahead: DeviceLaw.BUSY,
    another_bucket_first: DeviceLaw.FAIR,
    refused_before_k_falls: DeviceLaw.SHRINKS,
    all_is_decoded_ahead: DeviceLaw.BOUNDED,
    stop_rules_are_ignored: DeviceLaw.STOPPED,
    a_failure_fails_all: DeviceLaw.ONCE,
    who_leaves_stays_open: DeviceLaw.ONCE,
    more_workers_admit_less: DeviceLaw.MONOTONE,
    open_jobs_keep_their_first_place: DeviceLaw.ONCE,
    quotes_keep_work: DeviceLaw.QUOTED,
}


@pytest.mark.parametrize(("mistake", "law"), MISTAKES.items())
def test_a_mistake_breaks_its_law(mistake: Mistake, law: DeviceLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mistake(patch)
        steady = law in STEADY
        numbers = (number for number in range(HISTORIES * (5 if steady else 1)) if is_steady(number) == steady)
        found = find_violation(SEED, numbers, law)
    assert found is not None
    number, _ = found
    assert violation_of(drawn(SEED, number)) is None, "it is the mistake that breaks it"


def test_every_law_has_a_mistake() -> None:
    assert set(MISTAKES.values()) >= set(DeviceLaw) - {DeviceLaw.WAKING}
