"""A layout of all mandatory work of a device pool, written from the design alone, to check the scheduler's bounds."""

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.devices import Device
    from tests.support.simulator import Record

EPSILON = 1e-9


def answer_times(device: "Device", free: float, served: "Mapping[Record, int]") -> "dict[Record, float]":
    """Return when each job with waiting mandatory views is answered, if the one slot is free at that time.

    Decodes take the first free worker, in the queue's order; the slot runs the mandatory views that are decoded, in
    that order and in batches up to the knee. `served` has the mandatory views that a batch just takes. Answers are
    made at once.
    """
    waiting = {r: r.arrival.mandatory - len(r.dispatched) - served.get(r, 0) for r in device.live}
    queue = sorted((r for r, views in waiting.items() if views > 0), key=lambda record: record.job.rank)
    decoded = _decoded_times(device, queue)
    ends: dict[Record, float] = {}
    while queue:
        ready = [record for record in queue if decoded[record] <= free + EPSILON]
        if not ready:
            free = min(decoded[record] for record in queue)
            continue
        bucket, room, taken = _next_bucket(ready[0], waiting), 0, []
        room = device.truth.knee(bucket)
        views = 0
        for record in ready:
            while waiting[record] and views < room and _next_bucket(record, waiting) == bucket:
                waiting[record] -= 1
                views += 1
                taken.append(record)
        free += float(device.truth.seconds(bucket, device.truth.rung(bucket, views), 0))
        for record in taken:
            if not waiting[record]:
                ends[record] = free + device.stage_seconds(record.job.finish, record.job)
        queue = [record for record in queue if waiting[record]]
    return ends


def _next_bucket(record: "Record", waiting: "Mapping[Record, int]") -> object:
    return record.arrival.buckets[record.arrival.mandatory - waiting[record]]


def _decoded_times(device: "Device", queue: "list[Record]") -> "dict[Record, float]":
    first, number = device.machine.slots, device.machine.workers
    free = [max(device.now, device.until.get(worker, device.now)) for worker in range(first, first + number)]
    heapq.heapify(free)
    started = {step.job.payload: device.until[thread] for thread, step in device.running.items() if thread >= first}  # type: ignore[union-attr]
    times: dict[Record, float] = {}
    for record in queue:
        if record.decoded:
            times[record] = device.now
        elif record.decode_started:
            times[record] = started[record]
        else:
            times[record] = heapq.heappushpop(free, free[0]) + device.stage_seconds("decode", record.job)
            heapq.heapreplace(free, times[record])
    return times
