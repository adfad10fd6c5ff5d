"""Random histories of a pool: drawn from a seed, checked against the laws, and shrunk where one is violated."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from random import Random
from typing import Any

from tests.support.laws import Law, Violation, require
from tests.support.simulator import A, Arrival, B, Bucket, C, D, Faults, Pool, flat, linear
from tta_server.errors import InvalidInput
from tta_server.scheduling.jobs import Bounds, Priority
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason

MODELS: tuple[tuple[Bucket, ...], ...] = ((A, B), (C,), (D,))
STEEP = {1: 2.0, 2: 3.4, 4: 6.0, 8: 11.0}
"""Batch size -> milliseconds: a batch costs more than a view, and less than its views one by one."""
CURVES = {
    "cpu": {A: linear(8), B: linear(15), C: linear(3), D: linear(21)},
    "gpu": {A: flat(8), B: flat(15), C: flat(3), D: flat(30)},
    "both": {A: linear(8), B: STEEP, C: flat(5), D: linear(12)},
}
NAMES = {A: "A", B: "B", C: "C", D: "D"}
RECOVERY_SECONDS = 5.0
"""Seconds after a slow spell within which a server admits again."""
BOUNDS = Bounds()
LONG_QUEUES = 100
"""One history of this many has a long queue."""


@dataclass(frozen=True)
class History:
    """A machine and its events.

    `speeds` are (ms, factor), `fails` and `hangs` numbers of batches; at `quotes` (ms) a client requests a quote.
    """

    machine: str = "cpu"
    slots: int = 1
    decode_ms: float = 0
    finish_ms: float = 0
    bounds: Bounds = BOUNDS
    arrivals: tuple[Arrival, ...] = ()
    fails: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    speeds: tuple[tuple[float, float], ...] = ()
    quotes: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return formatted(self)

    def pool(self, scheduler: type[Scheduler[Any]] = Scheduler) -> Pool:
        return Pool(
            CURVES[self.machine],
            self.slots,
            self.decode_ms,
            self.finish_ms,
            self.bounds,
            Faults(self.fails, self.hangs, self.speeds),
            scheduler,
        )


def formatted(value: Any) -> str:
    """Return the expression that makes it, without its defaults."""
    if isinstance(value, Bucket):
        return NAMES[value]
    if isinstance(value, Priority):
        return f"Priority.{value.name}"
    if isinstance(value, tuple):
        return f"({''.join(f'{formatted(item)}, ' for item in value).rstrip()})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{formatted(key)}: {formatted(item)}' for key, item in value.items())}}}"
    if not is_dataclass(value):
        return "math.inf" if value == math.inf else repr(value)
    given = ((field, getattr(value, field.name)) for field in fields(value))
    return f"{type(value).__name__}({', '.join(f'{f.name}={formatted(v)}' for f, v in given if v != f.default)})"


# ---- drawn ----


def drawn(seed: str, number: int) -> History:
    """Return one of a seed's histories; the same arguments give the same history."""
    random = Random(f"{seed} {number}")
    return draw_long_queue(random) if number % LONG_QUEUES == LONG_QUEUES - 1 else draw(random)


def draw(random: Random) -> History:
    """Draw a history of a few arrivals."""
    truthful = random.random() < 0.7
    quiet = random.random() < 0.5
    return History(
        machine=random.choice(["cpu", "cpu", "gpu", "both"]),
        slots=random.randint(1, 4),
        decode_ms=random.choice([0, 0, 2, 5]),
        finish_ms=random.choice([0, 0, 1, 4]),
        bounds=_bounds(random) if random.random() < 0.2 else Bounds(),
        arrivals=_arrivals(random, random.randint(1, 12), quiet),
        fails=frozenset() if quiet else frozenset(random.sample(range(12), random.randint(0, 3))),
        hangs=frozenset() if truthful or random.random() < 0.8 else frozenset([random.randint(0, 6)]),
        speeds=() if truthful else tuple(_speeds(random)),
        quotes=tuple(random.randint(0, 200) for _ in range(random.choice([0, 0, 0, 3]))),
    )


def draw_long_queue(random: Random) -> History:
    """Draw a history with over 64 jobs queued most of the time, about as many as can be served."""
    count, slots, pace = random.randint(90, 130), random.randint(1, 4), random.uniform(4, 14)
    history = draw(random)
    arrivals = (
        replace(
            arrival,
            at_ms=arrival.at_ms % 1000 / random.choice([10, 100]),
            budget_ms=pace * count / slots * random.uniform(0.5, 2),
            priority=random.choice([arrival.priority, Priority.BATCH]),
        )
        for arrival in _arrivals(random, count, quiet=random.random() < 0.5)
    )
    return replace(history, slots=slots, arrivals=tuple(arrivals), bounds=Bounds(), quotes=(), speeds=())


def _bounds(random: Random) -> Bounds:
    return Bounds(jobs=random.randint(1, 4)) if random.random() < 0.5 else Bounds(nbytes=random.randint(2, 5) * 1000)


def _speeds(random: Random) -> Iterator[tuple[float, float]]:
    at = 0
    for _ in range(random.randint(1, 3)):
        at += random.randint(0, 150)
        yield at, random.choice([0.3, 0.5, 2.0, 4.0, 10.0])


def _arrivals(random: Random, count: int, quiet: bool) -> tuple[Arrival, ...]:
    """Draw bursts and single arrivals; some pauses are longer than an arrival is remembered."""
    models = MODELS[: random.randint(1, 3)]
    longest = random.choice([0, 5, 30])
    most_mandatory = random.choice([1, 1, 2, 4])
    share = random.choice([0, 0, 0.5, 1])  # of batch jobs
    patience = random.choice([math.inf, 10, 25, 60])
    at, drawn = 0, []
    for _ in range(count):
        at += random.randint(0, longest) if random.random() < 0.97 else 10_500
        arrival = _arrival(random, at, random.choice(models), most_mandatory, random.random() < share)
        drawn.append(replace(arrival, default_budget_ms=patience if random.random() < 0.8 else math.inf))
    return tuple(drawn if quiet else (_with_faults(random, arrival) for arrival in drawn))


def _arrival(random: Random, at: int, model: tuple[Bucket, ...], most_mandatory: int, batch: bool) -> Arrival:
    views = random.choice([1, 2, 4, 6, 10])
    one = random.choice(model)
    buckets = (one,) * views if random.random() < 0.6 else tuple(random.choice(model) for _ in range(views))
    return Arrival(
        at,
        budget_ms=random.randint(1, 150) if not batch else random.choice([60, 300, 1000]),
        buckets=buckets,
        mandatory=min(random.randint(1, most_mandatory), views),
        priority=Priority.BATCH if batch else Priority.INTERACTIVE,
        gains=tuple(random.choice([0.1, 0.5, 1.0, 2.0]) for _ in range(random.choice([1, 1, 3]))),
    )


def _with_faults(random: Random, arrival: Arrival) -> Arrival:
    """Add a client that cancels, lost views, or a stop rule that needs fewer views."""
    return replace(
        arrival,
        cancels_ms=random.choice([None, None, None, random.randint(0, 60)]),
        lost=frozenset(random.sample(range(6), random.choice([0, 0, 0, 1, 2]))),
        stops_after=random.choice([None, None, random.randint(1, 5)]),
    )


# ---- held against the laws ----


def check(history: History, scheduler: type[Scheduler[Any]] = Scheduler) -> None:
    """Run a history; raises Violation."""
    pool = history.pool(scheduler)
    pool.run(history.arrivals)
    if any(factor > 1 for _, factor in history.speeds):
        check_recovery(history, pool)
    check_quote(history, scheduler)
    if history.quotes:
        check_quotes_change_nothing(history, pool, scheduler)


def check_recovery(history: History, pool: Pool) -> None:
    """Require that a pair of jobs is admitted RECOVERY_SECONDS after a slow spell, and another pair right after it.

    Each has six times the budget that one needs: in 5 s an estimate of ten times the true cost falls to 2.6 times.
    """
    pool.recover(RECOVERY_SECONDS)
    for model in MODELS:
        alone = history.decode_ms + history.finish_ms + CURVES[history.machine][model[0]][1]
        for when in ("5 s later", "and then"):
            arrival = Arrival(pool.now * 1e3, 6 * alone, model[:1])
            pair = [pool.arrive(arrival), pool.arrive(arrival)]
            pool.run()
            refused = [record.refused for record in pair[: history.bounds.jobs] if record.refused]
            require(not refused, Law.RECOVERED, f"{when}: {refused}")
            answered = all(isinstance(record.outcome, StopReason) for record in pair if not record.refused)
            require(answered, Law.RECOVERED, f"{when} an admitted job is not answered")


def check_quote(history: History, scheduler: type[Scheduler[Any]]) -> None:
    """Require that a quote of an idle pool, where batches do not help, is what then happens."""
    first = replace(history.arrivals[0], at_ms=0, default_budget_ms=math.inf, cancels_ms=None, lost=frozenset())
    arrival = replace(first, budget_ms=first.budget_ms + 0.3, stops_after=None)  # no view ends just at the deadline
    alone = replace(history, fails=frozenset(), hangs=frozenset(), speeds=(), bounds=BOUNDS)
    pool, quoted = alone.pool(scheduler), alone.pool(scheduler)
    if not pool.knee_is_one:
        return
    try:
        quote = quoted.quote(arrival)
    except InvalidInput:
        return
    (record,) = pool.run([arrival])
    ((at, outcome),) = record.answers
    require(quote.wait == 0, Law.QUOTED, f"an idle pool asks to wait for {quote.wait} s")
    require(quote.views == record.merged, Law.QUOTED, f"{quote.views} views were quoted, {record.merged} came")
    end = at + pool.stage_seconds("finish", record.job)
    expected = quote.ends[quote.views - arrival.mandatory]
    require(math.isclose(expected, end, abs_tol=1e-6), Law.QUOTED, f"{expected} s were quoted, it took {end}")
    with quoting():
        (record,) = quoted.run([arrival])
    require(record.answers == [(at, outcome)], Law.QUOTED, "the outcome differs after a quote")


@contextmanager
def quoting() -> Iterator[None]:
    """Attribute what is violated only after a quote to the quote."""
    try:
        yield
    except Violation as broken:
        raise Violation(Law.QUOTED, f"after a quote: {broken}") from broken


def check_quotes_change_nothing(history: History, pool: Pool, scheduler: type[Scheduler[Any]]) -> None:
    """Require the same decisions as those of `pool`, which ran the history without quotes."""
    asked = history.pool(scheduler)
    for number, at in enumerate(history.quotes):
        arrival = history.arrivals[number % len(history.arrivals)]
        asked.at(at / 1e3, lambda arrival=arrival: _ask(asked, arrival), silently=True)
    asked.run(history.arrivals)
    require(decisions(asked, history) == decisions(pool, history), Law.QUOTED, "decisions differ after a quote")


def _ask(pool: Pool, arrival: Arrival) -> None:
    with suppress(InvalidInput):
        pool.quote(arrival)


def decisions(pool: Pool, history: History) -> list[list[tuple[float, str]]]:
    """Return for each arrival its answers as (seconds, outcome)."""
    records = pool.records[: len(history.arrivals)]
    return [[(round(at, 9), str(outcome)) for at, outcome in record.answers] for record in records]


# ---- searched ----


def find_violation(
    seed: str, numbers: Iterable[int], scheduler: type[Scheduler[Any]] = Scheduler
) -> tuple[int, Violation] | None:
    """Return the number of the first of a seed's histories that violates a law, and the violation."""
    for number in numbers:
        if broken := violation_of(drawn(seed, number), scheduler):
            return number, broken
    return None


def violation_of(history: History, scheduler: type[Scheduler[Any]] = Scheduler) -> Violation | None:
    try:
        check(history, scheduler)
    except Violation as broken:
        return broken
    return None
