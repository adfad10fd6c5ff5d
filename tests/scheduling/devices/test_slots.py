"""Two batches in flight of one slot: when it is free, and which of them is watched."""

import math

import pytest

from tests.support.device_steps import Hand
from tests.support.simulator import A
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import Batch


def batch(ms: float, slot: int = 0) -> Batch[None]:
    return Batch(slot, A, (), ms / 1e3)


def test_the_second_batch_starts_when_the_first_ends() -> None:
    """Both take 100 ms; the first ends at 150 instead of 100, so the second ends at 250."""
    slots = DeviceSlots(1, prepare=0.01)
    first, second = batch(100), batch(100)
    slots.begin(first, 0.0, 1.0)
    assert slots.asks_at(0) == pytest.approx(0.09)
    slots.begin(second, 0.1, 0.3)
    assert (slots.asks_at(0), slots.free_at(0, 0.05)) == (math.inf, pytest.approx(0.2))
    slots.end(first, 0.15)
    assert slots.free_at(0, 0.15) == pytest.approx(0.25)
    assert slots.answer_slack == pytest.approx(0.05)
    slots.end(second, 0.25)
    assert (slots.asks_at(0), slots.idle, slots.answer_slack) == (-math.inf, 1, math.inf)


def test_the_second_one_may_end_first() -> None:
    slots = DeviceSlots(1, prepare=0.1)
    first, second = batch(100), batch(100)
    slots.begin(first, 0.0, 1.0)
    slots.begin(second, 0.1, 1.0)
    slots.end(second, 0.18)
    assert slots.free_at(0, 0.05) == pytest.approx(0.1), "the first one's predictions are merged still"


def test_a_slot_asks_as_early_as_preparing_takes_but_not_before_its_batch_starts() -> None:
    slots = DeviceSlots(1)
    for _ in range(20):
        slots.observe_prepare(batch(100), 0.03, 1.0)
    assert slots.prepare == pytest.approx(0.03)
    slots.observe_prepare(batch(20), 0.03, 1.0)
    assert slots.prepare == pytest.approx(0.02)


def test_a_batch_behind_one_that_hung_is_not_aborted_with_it() -> None:
    """Of two batches of 6 ms the first hangs until it is aborted at 1,007 ms: the second one has its own second."""
    hand = Hand(prepare=100)
    jobs = [hand.admit(budget_ms=10_000) for _ in range(2)]
    hand.decode(*jobs)
    first, second = hand.batch(1), hand.batch(2)
    assert hand.scheduler.overdue(1.0) == []
    assert hand.scheduler.overdue(1.002) == [first]
    hand.complete(first, 1007)
    assert hand.scheduler.overdue(1.5) == []
    assert hand.scheduler.overdue(2.0071) == [second]
