"""How far the views of one job are. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from tta_server.scheduling.stopping import StopReason


class Progress(NamedTuple):
    """The one record of a job's state, as a value: it is replaced under the engine's lock and may be read without it.

    Entries are the job's views, or the tiles of its views, numbered in policy order. The first `dispatched` have been
    given to slots, and `running` of these are on a slot now. `merged`, `lost` (no usable output) and `failed` (its
    batch failed) are sets of entries, bit i for entry i. `open_share` is the share of the answer that was undecided
    when a stop rule asked last. `stop` is set once no more entries are dispatched and the answer waits for a slot. Once
    `settled` is true, nothing but `running` changes any more.
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
        """The next `count` entries are on a slot."""
        return self._replace(dispatched=self.dispatched + count, running=self.running + count)

    def come_back(self) -> "Progress":
        """One entry is on its slot no more."""
        return self._replace(running=self.running - 1)

    def merge(self, entry: int) -> "Progress":
        return self._replace(merged=self.merged | 1 << entry)

    def judge(self, open_share: float | None) -> "Progress":
        """What a stop rule saw of the merge so far."""
        return self._replace(open_share=open_share)

    def lose(self, entry: int) -> "Progress":
        """Also takes back that it was merged."""
        return self._replace(merged=self.merged & ~(1 << entry), lost=self.lost | 1 << entry)

    def fail(self, entry: int) -> "Progress":
        return self._replace(failed=self.failed | 1 << entry)

    def close(self, reason: StopReason) -> "Progress":
        return self._replace(stop=reason)

    def settle(self) -> "Progress":
        return self._replace(settled=True)

    # ---- questions ----

    @property
    def merged_count(self) -> int:
        return self.merged.bit_count()

    @property
    def returned(self) -> int:
        """The set of entries of which nothing more is to come."""
        return self.merged | self.lost | self.failed

    def has_merged_first(self, count: int) -> bool:
        return self.merged & (1 << count) - 1 == (1 << count) - 1

    def has_returned_first(self, count: int) -> bool:
        return self.returned & (1 << count) - 1 == (1 << count) - 1

    def waiting(self, count: int) -> list[int]:
        """Those of the first `count` entries that may still be merged."""
        return list(entries((1 << count) - 1 & ~self.returned))

    def whole_views(self, tiles: int) -> int:
        """How many views are merged; 0 while a view of `tiles` entries is merged in part."""
        views, rest = divmod(self.merged_count, tiles)
        return 0 if rest else views

    def views_in_order(self, tiles: int) -> int:
        """The same where these are the policy's first views; 0 if others are, as slots may return them."""
        return self.whole_views(tiles) if self.merged & self.merged + 1 == 0 else 0


NOTHING_DONE = Progress()


def entries(members: int) -> Iterator[int]:
    """The members of a set that is given as a bit mask, in order."""
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest
