"""A list schedule of all mandatory work, written from the design alone, to check the scheduler's own."""

import math
from collections.abc import Container, Iterable
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.simulator import Pool, Record


def slots_free(pool: "Pool", lead: float = 0.0) -> list[float]:
    """Return when each slot should be free; the first free one is busy for `lead` seconds more."""
    free = [pool.runs[s].until if s in pool.runs else pool.finishing.get(s, pool.now) for s in range(pool.slots)]
    if lead:
        free[free.index(min(free))] += lead
    return free


ROUNDED = (0.0, 1e-9, -1e-9)
"""Seconds by which a slot may seem free earlier: sums of the same costs differ in their last bits, and then another
slot gets the work."""


def schedule(
    pool: "Pool", free: list[float], *extra: "Record", served: "Container[Record]" = (), nudge: float = 0.0
) -> "dict[Record, float]":
    """Return when `extra` and each job whose mandatory work or answer waits is answered, those in `served` excluded.

    Interactive jobs come first, then batch jobs, each by deadline; each piece of work takes the next free slot. `free`
    is changed.
    """
    queue = [r for r in pool.live if (r.needs_mandatory or not r.running) and r not in served]
    ends: dict[Record, float] = {}
    for record in _ordered([*queue, *extra]):
        ends[record] = _schedule_record(pool, free, record, nudge)
    return ends


def _ordered(queue: "list[Record]") -> "list[Record]":
    """Rank jobs; answers behind the last interactive job with work to run are ranked with the batch jobs."""
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
    """Return the slot that is idle for the shortest time before `start`; if none is free by then, the first to be."""
    idle = [time for time in free if time <= start]
    return free.index(max(idle) if idle else min(free))


def _assign(free: list[float], start: float, seconds: float, nudge: float) -> float:
    slot = _pick_slot(free, start + nudge)
    free[slot] = max(start, free[slot]) + seconds
    return free[slot]


def _own_batches(pool: "Pool", record: "Record") -> Iterable[float]:
    """Return the seconds of its mandatory views in batches up to the knee."""
    for bucket, same in groupby(record.arrival.buckets[len(record.dispatched) : record.arrival.mandatory]):
        left, knee = len(list(same)), pool.truth.knee(bucket)
        while left > 0:
            yield pool.view_seconds(bucket, min(left, knee))
            left -= knee


def lateness(ends: "dict[Record, float]") -> float:
    """Return the largest lateness in seconds; negative if all are in time."""
    return max((end - record.job.deadline for record, end in ends.items()), default=-math.inf)
