"""The slots of a device, whose next batch may be prepared while one runs. Pure."""

from collections import Counter

from tta_server.scheduling.estimates import Slots


class DeviceSlots(Slots):
    """When each slot is expected to be free of all batches in flight."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._in_flight: Counter[int] = Counter()

    def take(self, slot: int, until: float) -> None:
        """A slot runs one more batch, which is expected to end then."""
        self._in_flight[slot] += 1
        super().take(slot, until)

    def release(self, slot: int) -> None:
        """A slot has ended its first batch in flight."""
        self._in_flight[slot] -= 1
        if self._in_flight[slot] <= 0:
            del self._in_flight[slot]
            super().release(slot)

    def is_busy(self, slot: int) -> bool:
        """True if a batch of this slot is in flight."""
        return slot in self._in_flight

    def latest_end(self, slot: int, mean: float, now: float) -> float:
        """The latest time at which this slot may be free so that slots are free at `mean` on average."""
        others = sum(self.free_at(other, now) for other in range(self.number) if other != slot)
        return mean * self.number - others
