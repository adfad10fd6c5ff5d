"""The slots of a device, whose next batch may be prepared while one runs. Pure."""

import math
from collections import deque

from tta_server.scheduling.estimates import Slots


class DeviceSlots(Slots):
    """When each slot is expected to be free of all batches in flight."""

    def __init__(self, number: int, prepare: float = 0.0) -> None:
        super().__init__(number)
        self.prepare = prepare
        """Seconds before the end of its batch at which a slot asks for the next one."""
        self._in_flight: dict[int, deque[float]] = {}
        self.answer_slack = math.inf
        """The least time that is left, after a batch in flight, until a worker has to begin an answer of it."""

    def run(self, slot: int, until: float, answer_at: float) -> None:
        """A slot runs one more batch, until then; `answer_at` is when the first answer has to begin."""
        self._in_flight.setdefault(slot, deque()).append(answer_at - until)
        self._update()
        self.take(slot, until)

    def release(self, slot: int) -> None:
        """A slot has ended its first batch in flight."""
        batches = self._in_flight.get(slot)
        if batches:
            batches.popleft()
        if not batches:
            self._in_flight.pop(slot, None)
            super().release(slot)
        self._update()

    def _update(self) -> None:
        self.answer_slack = min((slack for batches in self._in_flight.values() for slack in batches), default=math.inf)

    def is_busy(self, slot: int) -> bool:
        """True if a batch of this slot is in flight."""
        return slot in self._in_flight

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
