"""What a machine does to the work of all its threads: stalls in which none of them runs, and slow spells. Pure."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Stalls:
    """Pauses of the whole machine, of a random length between two: `per_s` a second on average. Times in seconds."""

    per_s: float = 0.0
    shortest: float = 0.05
    longest: float = 0.2


@dataclass(frozen=True, slots=True)
class SlowSpell:
    """From `start` on, for `length` seconds, all work takes `factor` times as long."""

    start: float
    length: float
    factor: float

    @property
    def end(self) -> float:
        return self.start + self.length


class Stall(NamedTuple):
    start: float
    end: float


class Machine:
    """How long work takes on this machine; without stalls and slow spells, as long as on an ideal one."""

    def __init__(self, stalls: Stalls = Stalls(), spells: tuple[SlowSpell, ...] = (), seed: int = 0) -> None:
        self.stalls: list[Stall] = []
        """Those up to the last time that was asked for, and one more."""
        self._spells = spells
        self._steady = not stalls.per_s and not spells
        self._next = self._drawn(stalls, Random(f"{seed} stalls")) if stalls.per_s else iter(())

    @staticmethod
    def _drawn(stalls: Stalls, random: Random) -> Iterator[Stall]:
        at = 0.0
        while True:
            at += random.expovariate(stalls.per_s)
            end = at + random.uniform(stalls.shortest, stalls.longest)
            yield Stall(at, end)
            at = end

    def seconds(self, start: float, work: float) -> float:
        """How long `work` seconds of an ideal machine take here from `start` on."""
        if self._steady:
            return work
        now = start
        while True:
            factor, change = self._speed(now)
            if work * factor <= change - now:
                return now + work * factor - start
            work -= (change - now) / factor
            now = change

    def resumes_at(self, time: float) -> float:
        """When the machine runs from that time on: then, or at the end of a stall."""
        stall = None if self._steady else self._stall_from(time)
        return stall.end if stall and stall.start <= time else time

    def _speed(self, now: float) -> tuple[float, float]:
        """The factor on work at a time, infinite in a stall, and when it changes next."""
        changes = [time for spell in self._spells for time in (spell.start, spell.end) if time > now]
        stall = self._stall_from(now)
        if stall and stall.start <= now:
            return math.inf, stall.end
        if stall:
            changes.append(stall.start)
        factor = math.prod(spell.factor for spell in self._spells if spell.start <= now < spell.end)
        return factor, min(changes, default=math.inf)

    def _stall_from(self, now: float) -> Stall | None:
        """The stall at that time, or the next one."""
        while not self.stalls or self.stalls[-1].end <= now:
            if (following := next(self._next, None)) is None:
                return None
            self.stalls.append(following)
        return self.stalls[bisect_right(self.stalls, now, key=lambda stall: stall.end)]
