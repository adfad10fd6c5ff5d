"""Random histories of a device pool: drawn from a seed, and checked against the laws."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.support import histories
from tests.support.device_laws import DeviceLaw
from tests.support.devices import NO_FAULTS, Device, Machine
from tests.support.laws import Violation, require
from tests.support.simulator import PIXELS, A, Arrival, B, Bucket, C, D, Faults, flat, linear
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.jobs import Bounds
from tta_server.scheduling.stopping import StopReason

H100 = {1: 1.5, 2: 1.52, 4: 1.58, 8: 1.7, 16: 2.0, 32: 3.0, 64: 5.2, 128: 9.8}
"""Batch size -> milliseconds."""
STEEP = {1: 2.0, 2: 3.4, 4: 6.0, 8: 11.0}
CURVES: dict[str, dict[Bucket, dict[int, float]]] = {
    "flat": {A: flat(8), B: flat(15), C: flat(3), D: flat(30)},
    "h100": dict.fromkeys((A, B, C, D), H100),
    "mixed": {A: H100, B: STEEP, C: flat(5), D: linear(12)},
}
SIZES = (PIXELS, PIXELS, 50 * PIXELS)
FEW = 4
"""The most arrivals of a history that is run a second time, with quotes."""
CAPACITY = 200
"""One history of this many is long and at a steady rate."""


@dataclass(frozen=True)
class DeviceHistory:
    """A machine and its events; `rate` is the share of its capacity that arrives, for histories at a steady rate."""

    machine: Machine
    bounds: Bounds = histories.BOUNDS
    arrivals: tuple[Arrival, ...] = ()
    faults: Faults = NO_FAULTS
    rate: float | None = None

    def __repr__(self) -> str:
        return histories.formatted(self)

    def run(self, scheduler: type[DeviceScheduler[Any]] = DeviceScheduler, quotes: bool = False) -> Device:
        """Run it; with `quotes`, each client asks for a quote just before its request."""
        device = Device(self.machine, self.bounds, self.faults, scheduler)
        device.quotes = quotes
        device.run(self.arrivals)
        return device


def drawn(seed: str, number: int) -> DeviceHistory:
    """Return one of a seed's histories; the same arguments give the same history."""
    random = Random(f"{seed} {number} device")
    return draw_steady(random) if is_steady(number) else draw(random)


def is_steady(number: int) -> bool:
    """True for the numbers of histories at a steady rate."""
    return number % CAPACITY == CAPACITY - 1


def draw(random: Random) -> DeviceHistory:
    """Draw a history of a few arrivals, or of some more that crowd together."""
    base = histories.draw(random)
    arrivals = base.arrivals
    if random.random() < 0.3:
        crowd = (histories.draw(random).arrivals for _ in range(random.randint(2, 8)))
        arrivals = (*arrivals, *(replace(arrival, at_ms=arrival.at_ms % 40) for some in crowd for arrival in some))
    machine = Machine(
        CURVES[random.choice(list(CURVES))],
        slots=random.choice([1, 1, 1, 2]),
        workers=random.randint(1, 4),
        decode_ms=random.choice([0, 0.5, 2, 5]),
        finish_ms=random.choice([0, 0.05, 1, 4]),
        prepare_ms=random.choice([0, 0, 0.5, 20]),
    )
    if random.random() < 0.3:  # larger images: their decoding and answers take up to 7.5 times as long
        arrivals = tuple(replace(arrival, pixels=random.choice(SIZES)) for arrival in arrivals)
    return DeviceHistory(machine, base.bounds, arrivals, Faults(base.fails, base.hangs, base.speeds))


# ---- at a steady rate ----


def draw_steady(random: Random) -> DeviceHistory:
    """Draw a history of one model, in which arrivals come at a share of capacity for a hundred full batches."""
    curve = random.choice([H100, flat(8), flat(3), STEEP])
    knee = min(n for n, ms in curve.items() if ms / n <= 1.1 * min(c / k for k, c in curve.items()))
    machine = Machine({A: curve}, workers=random.randint(2, 8), decode_ms=random.choice([0.2, 0.5, 2]), finish_ms=0.05)
    rate, views = random.choice([0.5, 0.8, 0.95, 1.3, 2.0]), random.randint(1, 8)
    batch = curve[knee] / 1e3
    seconds = min(100 * batch, 600 / capacity(machine))
    arrivals, at = [], 0.0
    while at < seconds:
        at += random.expovariate(rate * capacity(machine))
        arrivals.append(Arrival(at * 1e3, budget_ms=40 * batch * 1e3 + 50, buckets=(A,) * views))
    return DeviceHistory(machine, Bounds(jobs=100_000), tuple(arrivals), rate=rate)


def capacity(machine: Machine) -> float:
    """Return the requests a second with one view each that a machine of one model bears."""
    (curve,) = machine.curves.values()
    best = min(ms / n for n, ms in curve.items())
    knee = min(n for n, ms in curve.items() if ms / n <= 1.1 * best)
    chores = (machine.decode_ms + machine.finish_ms) / machine.workers
    return 1e3 / max(chores, curve[knee] / knee)


def in_time(device: Device) -> int:
    """Return the number of answers."""
    return sum(isinstance(outcome, StopReason) for record in device.records for _, outcome in record.answers)


def check_steady(history: DeviceHistory, device: Device, scheduler: type[DeviceScheduler[Any]]) -> None:
    assert history.rate is not None
    offered, good = len(device.records), in_time(device)
    refused = [record for record in device.records if record.refused is not None]
    if refused:
        at = refused[0].arrived_at
        before = [record for record in device.records if record.answers and record.arrived_at < at]
        fell = any(record.merged < len(record.arrival.buckets) for record in before)
        most = len(history.arrivals[0].buckets)
        bound = _is_bound_by_workers(history.machine, most)
        require(fell or most == 1 or bound, DeviceLaw.SHRINKS, "a job is refused before an answer has fewer views")
    if history.rate <= 0.95:
        require(not refused, DeviceLaw.CAPACITY, f"{len(refused)} of {offered} are refused at {history.rate}")
    else:
        bearable = capacity(history.machine) * history.arrivals[-1].at_ms / 1e3
        found = f"{good} of {offered} are answered; the machine bears {bearable:.0f}"
        require(good >= 0.95 * min(offered, bearable), DeviceLaw.CAPACITY, found)
    (bucket,), (curve,) = history.machine.curves, history.machine.curves.values()
    faster = {n: 0.8 * ms for n, ms in curve.items()}
    for machine in (
        replace(history.machine, workers=history.machine.workers + 1),
        replace(history.machine, curves={bucket: faster}),
    ):
        better = in_time(replace(history, machine=machine).run(scheduler))
        require(better >= 0.99 * good - 1, DeviceLaw.MONOTONE, f"{better} are answered, {good} with less")


def _is_bound_by_workers(machine: Machine, views: int) -> bool:
    """True if the workers bear no more than the device does with all views."""
    (curve,) = machine.curves.values()
    return capacity(machine) <= 1.2 * 1e3 / (views * min(ms / n for n, ms in curve.items()))


# ---- searched ----


def violation_of(history: DeviceHistory, scheduler: type[DeviceScheduler[Any]] = DeviceScheduler) -> Violation | None:
    try:
        device = history.run(scheduler)
        if history.rate is not None:
            check_steady(history, device, scheduler)
        elif len(history.arrivals) <= FEW:
            asked = history.run(scheduler, quotes=True)
            require(_answers(asked) == _answers(device), DeviceLaw.QUOTED, "answers differ after quotes")
    except Violation as broken:
        return broken
    return None


def _answers(device: Device) -> list[list[tuple[float, str]]]:
    """Return for each arrival its answers as (seconds, outcome)."""
    return [[(at, str(outcome)) for at, outcome in record.answers] for record in device.records]


def find_violation(seed: str, numbers: Iterable[int], law: DeviceLaw | None = None) -> tuple[int, Violation] | None:
    """Return the number of the first of a seed's histories that violates a law (this one), and the violation."""
    for number in numbers:
        broken = violation_of(drawn(seed, number))
        if broken and law in (None, broken.law):
            return number, broken
    return None
