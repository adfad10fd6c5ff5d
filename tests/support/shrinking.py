"""A smaller history that violates the same law. Histories are dataclasses with `arrivals`."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, TypeVar

from tests.support.laws import Violation
from tests.support.simulator import Arrival

H = TypeVar("H")


def shrink(history: H, violation_of: Callable[[H], Violation | None], patience: int = 3000) -> H:
    """Return the smallest history found that violates the same law; `patience` candidates are tried at most."""
    broken = violation_of(history)
    assert broken is not None
    tried, candidates = 0, _simpler(history)
    while tried < patience and (candidate := next(candidates, None)):
        tried += 1
        found = violation_of(candidate)
        if found and found.law is broken.law:
            history, candidates = candidate, _simpler(candidate)
    return history


def _simpler(history: Any) -> Iterator[Any]:
    """Yield histories with fewer arrivals, then with simpler settings, then with simpler arrivals."""
    arrivals = history.arrivals
    size = len(arrivals) // 2
    while size:
        for start in range(0, len(arrivals), size):
            if size < len(arrivals):
                yield replace(history, arrivals=arrivals[:start] + arrivals[start + size :])
        size //= 2
    yield from _with_defaults(history)
    for number, arrival in enumerate(arrivals):
        for one in _simpler_arrivals(arrival):
            yield replace(history, arrivals=(*arrivals[:number], one, *arrivals[number + 1 :]))


def _with_defaults(settings: Any) -> Iterator[Any]:
    """Yield copies with one field at its default or one thread less; of a field without a default, copies of that."""
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if name in ("slots", "workers"):
            simpler = [value - 1] if value > 1 else []
        elif field.default is MISSING:
            simpler = list(_with_defaults(value)) if is_dataclass(value) else []
        else:
            simpler = [field.default] if name != "arrivals" and value != field.default else []
        yield from (replace(settings, **{name: one}) for one in simpler)


def _simpler_arrivals(arrival: Arrival) -> Iterator[Arrival]:
    default = Arrival(0, 0)
    for name in ("cancels_ms", "lost", "nbytes", "priority", "default_budget_ms", "gains", "stops_after", "pixels"):
        if getattr(arrival, name) != getattr(default, name):
            yield replace(arrival, **{name: getattr(default, name)})
    if arrival.mandatory > 1:
        yield replace(arrival, mandatory=arrival.mandatory - 1)
    for views in {arrival.mandatory, len(arrival.buckets) - 1}:
        if arrival.mandatory <= views < len(arrival.buckets):
            yield replace(arrival, buckets=arrival.buckets[:views])
    if len(set(arrival.buckets)) > 1:
        yield replace(arrival, buckets=arrival.buckets[:1] * len(arrival.buckets))
    if arrival.at_ms:
        yield replace(arrival, at_ms=0)
