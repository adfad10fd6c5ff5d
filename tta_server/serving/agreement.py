"""Whether outputs of two runs are the same but for rounding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks import Outputs

TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-6}
"""Difference that counts as rounding, of a number and of a typical number beside it, by the bytes of a number."""
LOW_PRECISION = TOLERANCE[2]
"""The same for a backend that computes in float16 or TF32, whose factors have 10 bits too."""
CHANGED = 0.02
"""Share of a map's cells whose class rounding may change: those between two classes."""
FLOOR = {2: 1e-6, 4: 1e-9, 8: 1e-12}
"""Difference that is rounding whatever the numbers."""


def are_equal(some: Outputs, others: Outputs, names: Sequence[str]) -> bool:
    """Whether these outputs are equal to the bit."""
    return all(np.array_equal(some[name], others[name], equal_nan=_is_float(some[name])) for name in names)


def agree(some: Outputs, others: Outputs, names: Sequence[str], rounding: float = 0.0) -> bool:
    """Whether these outputs, of one image each, are the same but for rounding and what rounding may reorder.

    `rounding` is a difference that counts as rounding whatever the type of a number, as in TOLERANCE. Where images of
    one batch have other numbers of boxes than alone, shapes differ, which shows nothing.
    """
    return all(_same(some[name], others[name], rounding) for name in names if some[name].shape == others[name].shape)


def _is_float(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _same(one: NDArray[Any], other: NDArray[Any], rounding: float) -> bool:
    if np.array_equal(one, other, equal_nan=_is_float(one)):
        return True
    if one.ndim > 2 and _are_whole(one) and _are_whole(other) and (one != other).mean() <= CHANGED:
        return True  # maps of classes
    if not _is_float(one):
        return one.ndim < 3  # classes of boxes, whose order rounding may change
    size = one.dtype.itemsize
    a, b = (values.astype(np.float32, copy=False) for values in (one, other))
    if len(a) == 1:
        a, b = a[0], b[0]
    if a.ndim == 2:  # rows of boxes, which come by score: near scores may change places
        axis = int(np.argmax(a.shape)) if len(one) == 1 else 0
        a, b = np.sort(a, axis=axis), np.sort(b, axis=axis)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    a, b = a[finite], b[finite]
    tolerance = max(rounding, TOLERANCE.get(size, 1e-3))
    typical = _typical(np.concatenate([a.ravel(), b.ravel()]))
    return bool((np.abs(a - b) <= tolerance * (np.abs(a) + typical) + FLOOR.get(size, 1e-9)).all())


def _are_whole(values: NDArray[Any]) -> bool:
    return not _is_float(values) or np.array_equal(values, np.rint(values))


def _typical(values: NDArray[Any]) -> float:
    """A small one of the numbers other than 0: a class that is masked with -10,000 must not hide the others."""
    sample = np.abs(values[:: max(1, values.size // 100_000)])
    sample = sample[sample > 0]
    return float(np.quantile(sample, 0.25, method="lower")) if sample.size else 0.0
