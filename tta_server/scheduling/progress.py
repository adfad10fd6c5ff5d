"""Which views of one job are dispatched, running, merged, lost or failed. Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tta_server.scheduling.stopping import StopReason


class Progress(NamedTuple):
    """The only record of a job's state, as a value: replaced under the engine's lock, read without it.

    Entries are the job's views, or the tiles of its views, numbered in policy order. The first `dispatched` entries
    were given to slots, and `running` of these are on a slot now. `merged`, `lost` (no usable output) and `failed` (the
    batch failed) are sets of entries, bit i for entry i. `open_share` is the undecided share of the answer when a stop
    rule computed it after the last merge. `stop` is set once no more entries are dispatched and the answer waits for a
    slot. Once `settled` is true, no entry is merged any more.
    """

    dispatched: int = 0
    running: int = 0
    merged: int = 0
    lost: int = 0
    failed: int = 0
    open_share: float | None = None
    stop: StopReason | None = None
    settled: bool = False

    # ---- transitions ----

    def dispatch(self, count: int) -> "Progress":
        """The next `count` entries run on a slot."""
        return self._replace(dispatched=self.dispatched + count, running=self.running + count)

    def end_run(self, count: int = 1) -> "Progress":
        """That many entries no longer run."""
        return self._replace(running=self.running - count)

    def merge(self, entries: int) -> "Progress":
        """A set of entries is merged."""
        merged = self.merged | entries
        return self if merged == self.merged else self._replace(merged=merged)

    def set_open_share(self, open_share: float | None) -> "Progress":
        """Records the undecided share of the answer after the last merge."""
        return self if open_share == self.open_share else self._replace(open_share=open_share)

    def lose(self, entries: int) -> "Progress":
        """A set of entries has no usable output; if they were recorded as merged, that is undone."""
        return self._replace(merged=self.merged & ~entries, lost=self.lost | entries)

    def fail(self, entries: int) -> "Progress":
        """The batch of a set of entries failed."""
        return self._replace(failed=self.failed | entries)

    def close(self, reason: StopReason) -> "Progress":
        """No more entries are dispatched."""
        return self._replace(stop=reason)

    def settle(self) -> "Progress":
        return self._replace(settled=True)

    # ---- queries ----

    @property
    def merged_count(self) -> int:
        return self.merged.bit_count()

    @property
    def returned(self) -> int:
        """The set of entries that are merged, lost or failed."""
        return self.merged | self.lost | self.failed

    def has_merged_first(self, count: int) -> bool:
        return self.merged & (1 << count) - 1 == (1 << count) - 1

    def has_returned_first(self, count: int) -> bool:
        """True if each of the first `count` entries is merged, lost or failed."""
        return self.returned & (1 << count) - 1 == (1 << count) - 1

    @property
    def returned_in_order(self) -> int:
        """How many of the first entries are all merged, lost or failed."""
        returned = self.returned
        return (~returned & returned + 1).bit_length() - 1

    def waiting(self, count: int) -> list[int]:
        """Those of the first `count` entries that may still be merged, in order."""
        return list(entries((1 << count) - 1 & ~self.returned))

    def whole_views(self, tiles: int) -> int:
        """The number of merged views of `tiles` entries each; 0 while the merged entries are no multiple of that."""
        views, rest = divmod(self.merged_count, tiles)
        return 0 if rest else views

    def views_in_order(self, tiles: int) -> int:
        """The same if these are the policy's first views; 0 if views were merged out of order."""
        return self.whole_views(tiles) if self.merged & self.merged + 1 == 0 else 0


NOTHING_DONE = Progress()


def as_set(members: Iterable[int]) -> int:
    """The set of these entries."""
    found = 0
    for entry in members:
        found |= 1 << entry
    return found


def entries(members: int) -> Iterator[int]:
    """The members of a bit set, in ascending order."""
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest
