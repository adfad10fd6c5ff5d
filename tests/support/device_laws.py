"""What must hold in every history of a device pool, checked while it runs in virtual time (`devices`)."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tests.support.device_layout import answer_times
from tests.support.laws import require
from tta_server.errors import BackendFailed, Cancelled, Overloaded, TTAError
from tta_server.scheduling.jobs import Batch, Decode, Finish, Finished, Job, Quote
from tta_server.scheduling.stopping import StopReason

if TYPE_CHECKING:
    from tests.support.devices import Device
    from tests.support.simulator import Record

TOLERANCE = 1e-6
MOST_ROUNDS = 50_000


class DeviceLaw(StrEnum):
    PROMISED = "L1: with truthful costs no admitted job is late, its answer included, and workers make all answers"
    MANDATORY_FIRST = "L2: a batch with an optional view leaves out no mandatory view of its bucket unless it is full"
    ROUNDS = "L3: of jobs of equal rank before a batch, none gets two views more than another"
    HARMLESS = "L4: no batch grows to a size that makes a job late, and none is padded while a view that fits waits"
    CAPACITY = "L5: within 95 % of capacity none is refused; beyond, goodput is within 5 % of capacity"
    SHRINKS = "L6: the number of views falls before the first refusal"
    BUSY = (
        "L7: no slot is idle beside a view, no worker beside an answer or an image within the bound of decoding ahead"
    )
    BOUNDED = "L8: decoded images stay within the bounds in views and bytes"
    ONCE = "L9: every job is answered once and every view runs once, in order, whatever fails or leaves"
    FAIR = "L10: mandatory views run in the queue's order across models"
    MONOTONE = "L11: one more worker or a faster device never lowers goodput by over 1 %"
    STOPPED = "L12: no view of a job starts after its stop rule has decided"
    QUOTED = "L13: a quote says whether its job is admitted, for good or later, and changes nothing"
    WAKING = "asking at the stated time answers a job or moves the time"


# ---- batches ----


@dataclass(frozen=True)
class Before:
    """The state before a slot asks: jobs with waiting mandatory views in order, and all dispatched counts."""

    mandatory: "list[Record]"
    open: "list[Record]"
    counts: "dict[Record, int]"


def before_batch(device: "Device") -> Before:
    live = [record for record in device.live if record.decoded]
    mandatory = sorted((r for r in live if r.needs_mandatory), key=lambda record: record.job.rank)
    open_jobs = [record for record in live if record.open and not record.job.progress.stop]
    return Before(mandatory, open_jobs, {record: len(record.dispatched) for record in live})


def check_batch(device: "Device", batch: "Batch[Record]", before: Before) -> None:
    _check_views(device, batch)
    needed = sum(view < job.mandatory for job, view in batch.items)
    if before.mandatory:
        first = before.mandatory[0]
        taken = any(job.payload is first for job, _ in batch.items)
        require(taken, DeviceLaw.FAIR, f"arrival {first.number} is first and has no view in the batch")
    knee = device.truth.knee(batch.bucket)
    if needed < len(batch.items):
        left = [record for record in before.mandatory if _waits(record, batch, before)]
        found = f"a mandatory view of arrival {left[0].number if left else None} is left out for optional ones"
        require(not left or needed >= knee, DeviceLaw.MANDATORY_FIRST, found)
    _check_rounds(device, batch, before)
    if device.truthful:
        _check_growth(device, batch, needed)
    _check_padding(device, batch, before)


def _waits(record: "Record", batch: "Batch[Record]", before: Before) -> bool:
    """True if the batch leaves out a mandatory view of its bucket."""
    position = before.counts[record] + sum(job.payload is record for job, _ in batch.items)
    return position < record.arrival.mandatory and record.arrival.buckets[position] == batch.bucket


def _check_views(device: "Device", batch: "Batch[Record]") -> None:
    given: dict[Record, list[int]] = {}
    for job, view in batch.items:
        record = job.payload
        require(record.live and record.decoded, DeviceLaw.ONCE, f"arrival {record.number} is not ready and runs")
        require(job.buckets[view] == batch.bucket, DeviceLaw.ONCE, "a batch has views of two buckets")
        given.setdefault(record, []).append(view)
    for record, views in given.items():
        first = len(record.dispatched)
        expected = list(range(first, first + len(views)))
        require(views == expected, DeviceLaw.ONCE, f"arrival {record.number} runs {views}, not {expected}")
        stops = record.arrival.stops_after
        answerable = record.merged_mandatory == record.arrival.mandatory
        enough = stops is not None and record.merged >= stops and answerable
        stopped = enough or record.job.progress.stop is not None
        require(not stopped, DeviceLaw.STOPPED, f"arrival {record.number} was stopped and gets another view")
    rows = batch.rows in device.truth.rungs(batch.bucket) and len(batch.items) <= batch.rows
    require(rows, DeviceLaw.HARMLESS, f"{len(batch.items)} views run as {batch.rows} rows")


def _surely_in_time(device: "Device", record: "Record", end: float) -> bool:
    """True if a view that ends then is in time, whatever workers do first."""
    wait = device.longest["decode"] + device.longest["finish"] * (len(device.live) / device.machine.workers + 2)
    return end + wait <= record.job.deadline - TOLERANCE


def _check_rounds(device: "Device", batch: "Batch[Record]", before: Before) -> None:
    if not device.truthful:
        return
    given = Counter(job.payload for job, _ in batch.items)
    end = device.start_of_next(batch.slot) + device.batch_seconds(batch)
    groups: dict[Any, list[Record]] = {}
    for record in before.open:
        same = all(bucket == batch.bucket for bucket in record.arrival.buckets)
        room = before.counts[record] + given[record] < len(record.arrival.buckets)
        if same and _surely_in_time(device, record, end):
            key = record.is_batch, record.gain, before.counts[record]
            if room or given[record]:
                groups.setdefault(key, []).append(record)
    for records in groups.values():
        most = max(given[record] for record in records)
        for record in records:
            room = before.counts[record] + given[record] < len(record.arrival.buckets)
            fair = given[record] >= most - 1 or not room
            require(fair, DeviceLaw.ROUNDS, f"arrival {record.number} gets {given[record]} views, another one {most}")


def _check_growth(device: "Device", batch: "Batch[Record]", needed: int) -> None:
    end = device.start_of_next(batch.slot) + device.batch_seconds(batch)
    for job, view in batch.items:
        late = view >= job.mandatory and end + device.stage_seconds(job.finish, job) > job.deadline + TOLERANCE
        require(not late, DeviceLaw.HARMLESS, f"optional view {view} of arrival {job.payload.number} ends too late")
    least = device.truth.rung(batch.bucket, needed) if needed else 0
    if batch.rows <= least or device.machine.slots > 1:
        return
    base = device.start_of_next(batch.slot) + (float(device.truth.seconds(batch.bucket, least, 0)) if least else 0.0)
    for job, view in batch.items:
        wait = device.stage_seconds(job.finish, job)
        late = view < job.mandatory and base + wait <= job.deadline < end + wait - TOLERANCE
        require(not late, DeviceLaw.HARMLESS, f"arrival {job.payload.number} is late as its batch has grown")
    served = Counter(job.payload for job, view in batch.items if view < job.mandatory)
    before, after = (answer_times(device, free, served) for free in (base, end))
    for record, time in after.items():
        late = before[record] <= record.job.deadline < time - TOLERANCE
        require(not late, DeviceLaw.HARMLESS, f"arrival {record.number} is late as a batch before it has grown")


def _check_padding(device: "Device", batch: "Batch[Record]", before: Before) -> None:
    if not device.truthful or len(batch.items) == batch.rows:
        return
    given = Counter(job.payload for job, _ in batch.items)
    end = device.start_of_next(batch.slot) + device.batch_seconds(batch)
    for record in {*before.open, *given}:
        position = before.counts[record] + given[record]
        if position < len(record.arrival.buckets) and record.arrival.buckets[position] == batch.bucket:
            waits = position >= record.arrival.mandatory and _surely_in_time(device, record, end)
            require(not waits, DeviceLaw.HARMLESS, f"a batch is padded, and a view of arrival {record.number} waits")


# ---- workers ----


def check_chore(device: "Device", step: "Decode[Record] | Finish[Record]") -> None:
    record = step.job.payload
    waiting = [other for other in device.live if other.job.progress.stop]
    if isinstance(step, Finish):
        complete = record.merged_mandatory == record.arrival.mandatory
        require(record.live and complete, DeviceLaw.ONCE, f"arrival {record.number} is answered twice or too early")
        return
    require(not waiting, DeviceLaw.BUSY, "an image is decoded while an answer waits")
    require(record.live and not record.decode_started, DeviceLaw.ONCE, f"arrival {record.number} is decoded twice")
    first = next(_decodable(device), None)
    bounded = first is not None and first.job.rank <= record.job.rank
    require(bounded, DeviceLaw.BOUNDED, f"arrival {record.number} is decoded too far ahead")
    require(first is record, DeviceLaw.FAIR, f"arrival {record.number} is decoded before another one")
    decoded = sum(r.arrival.nbytes for r in device.live if r.decode_started) + record.arrival.nbytes
    require(decoded <= device.bounds.nbytes, DeviceLaw.BOUNDED, f"{decoded} bytes are decoded")


def _decodable(device: "Device") -> "Iterator[Record]":
    """Yield the jobs whose decoding may begin, in order.

    Before each, less than two of the largest batches of its bucket are decoded and not dispatched.
    """
    if all(record.decode_started for record in device.live):
        return
    ahead: Counter[Any] = Counter()
    queued = [record for record in device.live if not record.decode_started or record.needs_mandatory]
    for record in sorted(queued, key=lambda record: record.job.rank):
        bucket = record.next_bucket
        if record.decode_started:
            ahead[bucket] += record.arrival.mandatory - len(record.dispatched)
        elif ahead[bucket] < 2 * device.truth.rungs(bucket)[-1]:
            yield record


def check_idle(device: "Device") -> None:
    """Check after all idle threads have asked."""
    if device.idle_workers:
        stopped = [record.number for record in device.live if record.job.progress.stop]
        require(not stopped, DeviceLaw.BUSY, f"the answers of arrivals {stopped} wait")
        waiting = next(_decodable(device), None)
        found = f"arrival {waiting and waiting.number} waits for its decoding beside an idle worker"
        require(waiting is None, DeviceLaw.BUSY, found)
    if not device.idle_slots:
        return
    before = before_batch(device)
    require(not before.mandatory, DeviceLaw.BUSY, "a mandatory view waits beside an idle slot")
    if any(record.needs_mandatory for record in device.live) or not device.truthful:
        return  # optional views may have to leave room
    for record in before.open:
        end = device.now + float(device.truth.seconds(record.next_bucket, 1, 0))
        waits = _surely_in_time(device, record, end)
        require(not waits, DeviceLaw.BUSY, f"a view of arrival {record.number} waits beside an idle slot")


# ---- answers ----


def check_answer(device: "Device", done: "Finished[Record]") -> None:
    record = done.job.payload
    require(record.live, DeviceLaw.ONCE, f"arrival {record.number} is answered twice")
    progress = record.job.progress
    seen = (progress.dispatched, progress.running, progress.merged_count, progress.settled)
    happened = (len(record.dispatched), record.running, record.merged, True)
    require(seen == happened, DeviceLaw.ONCE, f"arrival {record.number}: {seen} is recorded, {happened} is seen")
    if isinstance(done.outcome, StopReason):
        complete = record.merged > 0 and record.merged_mandatory == record.arrival.mandatory
        require(complete, DeviceLaw.ONCE, f"arrival {record.number} is answered without a mandatory view")
        return
    expected: tuple[type[TTAError], ...] = (BackendFailed,) if record.may_fail else ()
    expected = (Cancelled,) if record.left else expected
    fails = not device.truthful or isinstance(done.outcome, expected)
    require(fails, DeviceLaw.PROMISED, f"arrival {record.number} fails: {done.outcome!r}")


def check_answer_time(device: "Device", job: "Job[Record]") -> None:
    late = device.truthful and device.now > job.deadline + TOLERANCE
    require(not late, DeviceLaw.PROMISED, f"the answer of arrival {job.payload.number} is made too late")


def check_due(device: "Device", finished: "Sequence[Finished[Record]]") -> None:
    for done in finished if device.truthful else ():
        made = isinstance(done.outcome, StopReason)
        require(not made, DeviceLaw.PROMISED, f"the clock makes the answer of arrival {done.job.payload.number}")


def check_failed(hit: "Sequence[Record]", finished: "Sequence[Finished[Record]]") -> None:
    """Require that only jobs that now lack a mandatory view fail; the answers of others wait for a worker."""
    failed = {done.job.payload for done in finished}
    for record in hit:
        lacks = record.merged_mandatory < record.arrival.mandatory and record.hit_by_failure
        found = f"arrival {record.number} {'fails' if record in failed else 'goes on'}"
        require((record in failed) == lacks, DeviceLaw.ONCE, found)
    require(failed <= set(hit), DeviceLaw.ONCE, "a job fails that had no view in it")


def check_quote(quoted: "Quote | TTAError | None", record: "Record") -> None:
    """Require that a quote just before says what became of the job."""
    if quoted is None:
        return
    refused = record.refused
    if isinstance(quoted, Quote):
        agrees = isinstance(refused, Overloaded) if quoted.wait else refused is None
    else:
        agrees = type(quoted) is type(refused)
    require(agrees, DeviceLaw.QUOTED, f"arrival {record.number}: quoted {quoted!r}, admission gave {refused!r}")


def check_refusal(device: "Device", record: "Record") -> None:
    seconds = getattr(record.refused, "retry_after", 0.0)
    require(seconds >= 0, DeviceLaw.CAPACITY, f"arrival {record.number} is asked to come back in the past")


# ---- time ----


def check_progress(before: float, after: float | None, is_reported: bool) -> None:
    moved = is_reported or after is None or after > before
    require(moved, DeviceLaw.WAKING, "asking at the stated time did nothing: a busy loop")


def check_rounds(rounds: int) -> None:
    require(rounds < MOST_ROUNDS, DeviceLaw.WAKING, "a short history does not come to its end")


def check_end(device: "Device") -> None:
    for record in device.records:
        times = 0 if record.refused is not None else 1
        require(len(record.answers) == times, DeviceLaw.ONCE, f"arrival {record.number}: {len(record.answers)} answers")
    idle = device.scheduler.wake_at() is None and len(device.scheduler) == 0
    require(idle, DeviceLaw.WAKING, "no job is live, and the scheduler waits for something")
    backlog = device.scheduler.backlog()
    empty = backlog.jobs == 0 and backlog.nbytes == 0 and math.isclose(backlog.seconds, 0.0, abs_tol=1e-9)
    require(empty, DeviceLaw.ONCE, f"no job is live, and the backlog is {backlog}")
