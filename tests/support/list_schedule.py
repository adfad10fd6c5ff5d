"""A list schedule of all mandatory work, written from the design alone: what the scheduler's own is held against."""

import math
from collections.abc import Container, Iterable
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.simulator import Pool, Record


def slots_free(pool: "Pool", lead: float = 0.0) -> list[float]:
    """When each slot is expected to be free; one that is free now is busy for `lead` first."""
    free = [pool.runs[s].until if s in pool.runs else pool.finishing.get(s, pool.now) for s in range(pool.slots)]
    if lead:
        free[free.index(min(free))] += lead
    return free


ROUNDED = (0.0, 1e-9, -1e-9)
"""By how much a slot may be taken to be free earlier: sums of the same costs differ in their last bits, and then
another slot gets the work."""


def schedule(
    pool: "Pool", free: list[float], *extra: "Record", served: "Container[Record]" = (), nudge: float = 0.0
) -> "dict[Record, float]":
    """When each job whose mandatory work or answer waits, and `extra`, is answered: interactive ones by deadline, then
    batch jobs by deadline, each piece of work on the next free slot; not those `served` already. Uses up `free`."""
    queue = [r for r in pool.live if (r.needs_mandatory or not r.running) and r not in served]
    ends: dict[Record, float] = {}
    for record in _ordered([*queue, *extra]):
        ends[record] = _schedule_record(pool, free, record, nudge)
    return ends


def _ordered(queue: "list[Record]") -> "list[Record]":
    """Answers behind the last interactive job that has something to run take their turn among the batch jobs."""
    ranked = sorted(queue, key=lambda record: (record.is_batch, record.job.deadline))
    fixed = [n for n, record in enumerate(ranked) if not record.is_batch and record.needs_mandatory]
    last = fixed[-1] + 1 if fixed else 0
    return [*ranked[:last], *sorted(ranked[last:], key=lambda record: record.job.deadline)]


def _schedule_record(pool: "Pool", free: list[float], record: "Record", nudge: float) -> float:
    start = end = pool.now
    if not record.needs_mandatory:
        return _assign(free, pool.now, pool.stage_seconds(record.job.finish, record.job), nudge)
    if not record.decode_started:
        start = end = _assign(free, pool.now, pool.stage_seconds("decode", record.job), nudge)
    elif not record.decoded:
        start = end = record.decoded_at
    running = [run.started + run.seconds for run in pool.runs.values() if record.job in run.jobs]
    end = max([end, *running])
    for seconds in _own_batches(pool, record):
        end = max(end, _assign(free, start, seconds, nudge))
    answer = pool.stage_seconds(record.job.finish, record.job)
    last = min((time for time in free if time >= end), default=max(free))
    free[free.index(last)] += answer
    return end + answer


def _pick_slot(free: list[float], start: float) -> int:
    """The one that would stand idle for the shortest time before `start`; if none is free by then, the next that is."""
    idle = [time for time in free if time <= start]
    return free.index(max(idle) if idle else min(free))


def _assign(free: list[float], start: float, seconds: float, nudge: float) -> float:
    slot = _pick_slot(free, start + nudge)
    free[slot] = max(start, free[slot]) + seconds
    return free[slot]


def _own_batches(pool: "Pool", record: "Record") -> Iterable[float]:
    """Its mandatory views in batches up to the knee."""
    for bucket, same in groupby(record.arrival.buckets[len(record.dispatched) : record.arrival.mandatory]):
        left, knee = len(list(same)), pool.truth.knee(bucket)
        while left > 0:
            yield pool.view_seconds(bucket, min(left, knee))
            left -= knee


def lateness(ends: "dict[Record, float]") -> float:
    """Of the one who is latest."""
    return max((end - record.job.deadline for record, end in ends.items()), default=-math.inf)
