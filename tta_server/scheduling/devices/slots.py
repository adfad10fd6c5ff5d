"""The slots of a device, of which each may have a second batch in flight, and its workers. Pure."""

import math
from typing import Any, NamedTuple

from tta_server.scheduling.costs import CostEstimate
from tta_server.scheduling.estimates import Slots
from tta_server.scheduling.jobs import Batch

MOST_IN_FLIGHT = 2
"""Of one slot of a device: a batch that runs, and one that is prepared meanwhile or whose predictions are merged."""


class InFlight(NamedTuple):
    """A batch, when it is expected to start, and when a worker has to begin the first answer of it."""

    batch: Batch[Any]
    start: float
    answer_at: float

    @property
    def end(self) -> float:
        return self.start + self.batch.estimate


class DeviceSlots(Slots):
    """When each slot is expected to be free of all batches in flight."""

    def __init__(self, number: int, prepare: float = 0.0, most_in_flight: int = MOST_IN_FLIGHT) -> None:
        super().__init__(number)
        self.most_in_flight = most_in_flight
        self.prepare = prepare
        """Seconds before the end of its batch at which a slot asks for the next one."""
        self._preparing = CostEstimate(0.0)
        self._in_flight: dict[int, list[InFlight]] = {}
        self.answer_slack = math.inf
        """The least time that is left, after a batch in flight, until a worker has to begin an answer of it."""

    def begin(self, batch: Batch[Any], start: float, answer_at: float) -> None:
        """A slot has one more batch in flight; `answer_at` is when the first answer has to begin."""
        self._in_flight.setdefault(batch.slot, []).append(InFlight(batch, start, answer_at))
        self._update(batch.slot)

    def end(self, batch: Batch[Any], now: float) -> None:
        """A batch in flight has ended: the one behind it starts now."""
        batches = self._in_flight[batch.slot]
        is_first = batches[0].batch is batch
        left = [other for other in batches if other.batch is not batch]
        self._in_flight[batch.slot] = [other._replace(start=now) for other in left] if is_first else left
        self._update(batch.slot)

    def observe_prepare(self, batch: Batch[Any], seconds: float, now: float) -> None:
        """A batch was prepared in `seconds`: slots ask as early as that needs, but not before their batch starts."""
        self._preparing.observe(seconds, now)
        self.prepare = min(self._preparing.estimate(now), batch.estimate)

    def _update(self, slot: int) -> None:
        if batches := self._in_flight[slot]:
            self.take(slot, batches[-1].end)
        else:
            del self._in_flight[slot]
            self.release(slot)
        slacks = (each.answer_at - each.end for batches in self._in_flight.values() for each in batches)
        self.answer_slack = min(slacks, default=math.inf)

    def running(self, slot: int) -> InFlight | None:
        """The first batch in flight of a slot."""
        return self._in_flight[slot][0] if slot in self._in_flight else None

    def asks_at(self, slot: int) -> float:
        """When a slot may ask for its next batch."""
        batches = len(self._in_flight.get(slot, ()))
        if not batches:
            return -math.inf
        return self._busy[slot] - self.prepare if batches < self.most_in_flight else math.inf

    def latest_end(self, slot: int, mean: float, now: float) -> float:
        """The latest time at which this slot may be free so that slots are free at `mean` on average."""
        others = sum(self.free_at(other, now) for other in range(self.number) if other != slot)
        return mean * self.number - others


class Workers(Slots):
    """When each worker is expected to be free."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._answers: dict[int, float] = {}
        self.answers = 0.0
        """Seconds of the answers that workers make just now."""

    def take_answer(self, worker: int, seconds: float, now: float) -> None:
        """A worker makes an answer, which takes that long."""
        self.take(worker, now + seconds)
        self._answers[worker] = seconds
        self.answers = sum(self._answers.values())

    def release(self, slot: int) -> None:
        super().release(slot)
        if self._answers.pop(slot, None) is not None:
            self.answers = sum(self._answers.values())
