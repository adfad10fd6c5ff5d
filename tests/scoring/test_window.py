"""The window finds what a server bears, in virtual time: a server of slots with a queue, and other clients' load."""

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.scoring.window import Window


@dataclass
class VirtualServer:
    """`slots` take `seconds` for a request each; one that finds `queue` requests waiting is refused at once.

    `batch` requests fit a slot's run, which takes no longer for it. Each request finds `others` seconds of other
    clients' work before it.
    """

    slots: int
    seconds: float
    queue: int = 10_000
    batch: int = 1
    others: float = 0.0
    free: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = [0.0] * (self.slots * self.batch)

    def takes(self, now: float) -> float | None:
        """When the answer is there; None if it is refused."""
        if sum(one > now for one in self.free) >= len(self.free) and self._waiting(now) > self.queue:
            return None
        start = max(now, heapq.heappop(self.free)) + self.others
        heapq.heappush(self.free, start + self.seconds)
        return start + self.seconds

    def _waiting(self, now: float) -> float:
        return sum(max(0.0, one - now) for one in self.free) / self.seconds - len(self.free)


@dataclass
class Seen:
    """`sizes` after each event; answers, refusals, and the seconds of the answers, of the last half of the events."""

    sizes: list[int] = field(default_factory=list)
    answers: int = 0
    refusals: int = 0
    seconds: float = 0.0
    began: float = 0.0
    ended: float = 0.0

    @property
    def rate(self) -> float:
        return self.answers / (self.ended - self.began)


def drive(window: Window, server: VirtualServer, events: int, now: float = 0.0) -> Seen:
    """Keep as many requests under way as the window allows; one that is refused is asked again later."""
    seen, under_way, number = Seen(began=now), list[tuple[float, int, int, float, bool]](), 0
    for event in range(events):
        while len(under_way) < window.size:
            end = server.takes(now)
            heapq.heappush(under_way, (now + 0.01 if end is None else end, number, window.round, now, end is not None))
            number += 1
        now, _, sent_in, start, is_answer = heapq.heappop(under_way)
        if is_answer:
            window.answered(sent_in, now - start)
        else:
            window.refused(sent_in)
        seen.sizes.append(window.size)
        if event == events // 2:
            seen.answers, seen.refusals, seen.seconds, seen.began = 0, 0, 0.0, now
        seen.answers += is_answer
        seen.refusals += not is_answer
        seen.seconds += (now - start) * is_answer
    seen.ended = now
    return seen


servers = st.builds(
    VirtualServer,
    slots=st.integers(1, 8),
    seconds=st.floats(0.001, 1.0),
    queue=st.integers(1, 100),
    batch=st.integers(1, 3),
)


@given(servers, st.integers(1, 128))
def test_a_window_stays_within_its_bounds(server: VirtualServer, most: int) -> None:
    assert {1 <= size <= most for size in drive(Window(most), server, 400).sizes} == {True}


@given(servers)
def test_a_server_is_kept_busy_and_its_queue_short(server: VirtualServer) -> None:
    """Where its window is large enough: most of what its slots can do, and no answer takes many times its work."""
    seen, rows = drive(Window(128), server, 1500), server.slots * server.batch
    assert seen.rate >= 0.8 * rows / server.seconds
    assert seen.seconds / seen.answers <= 4.5 * server.seconds
    assert seen.refusals <= seen.answers


@given(st.integers(1, 8), st.floats(0.01, 0.2))
def test_other_clients_load_makes_the_window_smaller_and_its_end_larger_again(slots: int, seconds: float) -> None:
    window = Window(64)
    quiet = drive(window, VirtualServer(slots, seconds), 1000)
    busy = drive(window, VirtualServer(slots, seconds, others=9 * seconds), 150)
    assert min(busy.sizes) <= max(1, max(quiet.sizes) // 2)
    again = drive(window, VirtualServer(slots, seconds), 2000)
    assert again.rate >= 0.8 * slots / seconds


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 100)), max_size=200), st.integers(1, 50))
def test_any_events_leave_a_window_within_its_bounds(events: list[tuple[bool, int, float]], most: int) -> None:
    window = Window(most)
    for is_answer, age, seconds in events:
        if is_answer:
            window.answered(window.round - age, seconds)
        else:
            window.refused(window.round - age)
        assert 1 <= window.size <= most


def test_refusals_of_one_round_count_once() -> None:
    window = Window(64)
    while window.size < 32:
        window.answered(window.round, 1.0)
    before = window.round
    for _ in range(32):
        window.refused(before)
    assert window.size == 16


def test_the_window_grows_by_one_after_its_first_decrease() -> None:
    window = Window(64)
    sizes = []
    window.refused(window.round)
    for _ in range(10):
        sizes.append(window.size)
        window.answered(window.round, 1.0)
    assert sizes == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]


def test_the_shortest_mean_is_measured_again() -> None:
    """A server that is slower from now on is used as before after a while."""
    window = Window(16)
    drive(window, VirtualServer(4, 0.01), 1000)
    slower = drive(window, VirtualServer(4, 0.1), 8000)
    assert slower.rate == pytest.approx(40, rel=0.2)
