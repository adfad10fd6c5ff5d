"""One number or several: values (N, D) -> merged values, and how the views differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.imaging.placement import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import FORBID_EXTRA, ImageFrame, NoEvidence, ResponseSpec, Result, TaskDefaults, TensorSpec
from tta_server.tasks.shapes import Outputs, Shapes, check_vectors, output_name
from tta_server.tasks.sums import Score, Soundness, Sums, SumSpec
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

Values = NDArray[np.float64]
"""(D,): one view's outputs, or merged ones, in the model's own unit: logarithms if `output.kind` says so."""

TINY = 1e-300
"""Keeps a division by weights of 0 defined."""
TRIM = 0.2
"""Share of the weight that `trimmed_mean` leaves out at each end."""


@dataclass(frozen=True, slots=True)
class ValuesOutput:
    """`output:` of a model that gives numbers; views are merged before `log` or `log1p` is undone."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["values", "log", "log1p"] = "values"
    name: str | None = None


UNDO: dict[str, Callable[[Values], Values]] = {"values": lambda v: v, "log": np.exp, "log1p": np.expm1}


def mean(values: Values, weights: Values) -> Values:
    """Weighted mean of values (K, D) with weights (K, D); unweighted where no view has weight."""
    weights = np.where(weights.sum(axis=0) > 0, weights, 1.0)
    means: Values = (values * weights).sum(axis=0) / weights.sum(axis=0)
    return means


def trimmed_mean(values: Values, weights: Values) -> Values:
    """Weighted mean between the TRIM and 1 - TRIM quantiles; a view that a quantile splits counts in part."""
    order = np.argsort(values, axis=0, kind="stable")
    values, weights = np.take_along_axis(values, order, 0), np.take_along_axis(weights, order, 0)
    reached, total = np.cumsum(weights, axis=0), weights.sum(axis=0)
    kept = np.minimum(reached, (1 - TRIM) * total) - np.maximum(reached - weights, TRIM * total)
    return mean(values, np.maximum(kept, 0))


def median(values: Values, weights: Values) -> Values:
    """Weighted median: the value at half of the weight; the mean of two values that are."""
    order = np.argsort(values, axis=0, kind="stable")
    values, weights = np.take_along_axis(values, order, 0), np.take_along_axis(weights, order, 0)
    reached, half = np.cumsum(weights, axis=0), weights.sum(axis=0) / 2
    low = (reached < half * (1 - 1e-9)).sum(axis=0)
    high = (reached <= half * (1 + 1e-9)).sum(axis=0)
    columns = np.arange(values.shape[1])
    middle: Values = (values[low, columns] + values[np.minimum(high, len(values) - 1), columns]) / 2
    return middle


MERGES: dict[str, Callable[[Values, Values], Values]] = {"mean": mean, "median": median, "trimmed_mean": trimmed_mean}


@dataclass(frozen=True, eq=False, kw_only=True)
class RegressionResult(Result):
    """D numbers in the units of `labels`.

    `values` (D,) float64 are merged over the views; `view_values` (K, D) float64 are each view's own.
    """

    labels: Sequence[str]
    values: Values
    view_values: Values


class ValueAccumulator(NoEvidence):
    """Keeps every view's few numbers, which a median needs; merge `mean` also takes sums instead."""

    def __init__(self, merge: Callable[[Values, Values], Values], undo: Callable[[Values], Values]) -> None:
        self._merge = merge
        self._undo = undo
        self._values: list[Values] = []
        self._weights: list[Values] = []
        self._sums: Sums | None = None

    def add(self, prediction: Values, weight: Weight) -> None:
        w = np.broadcast_to(np.asarray(weight, np.float64), prediction.shape)
        self._values.append(prediction)
        self._weights.append(w)

    def add_sums(self, sums: Sums) -> None:
        found = self._sums
        self._sums = sums if found is None else Sums(found.total + sums.total, found.weights + sums.weights)

    def result(self) -> Values:
        if self._sums is None:
            return self._merge(np.array(self._values), np.array(self._weights))
        total, weight = self._sums.total, self._sums.weights
        for value, own in zip(self._values, self._weights, strict=True):
            total, weight = total + own * value, weight + own
        merged: Values = total / weight
        return merged

    def standard_error(self) -> float:
        """Standard error of the weighted mean, the largest of the vector's; infinite for one effective view.

        It is the root of k / (k - 1) sum(w^2 (x - m)^2) / sum(w)^2, where k = sum(w)^2 / sum(w^2) is the
        effective number of views. It can't be computed of sums, for which it is infinite.
        """
        if self._sums is not None:
            return inf
        values, weights = self._undo(np.array(self._values)), np.array(self._weights)
        shares = weights / np.maximum(weights.sum(axis=0), TINY)
        concentration = (shares**2).sum(axis=0)  # 1 / k
        if np.any((concentration == 0) | (concentration > 1 - 1e-9)):
            return inf
        squares = (shares**2 * (values - mean(values, weights)) ** 2).sum(axis=0)
        return float(np.sqrt(squares / (1 - concentration)).max())


class Regression(TaskDefaults):
    name = "regression"
    Output = ValuesOutput
    sees_crops = True
    labels_are = "value"
    merges: Sequence[str] = tuple(MERGES)
    stops: Sequence[str] = ("all", "tolerance")
    includes: Sequence[str] = ("views", "uncertainty")

    def __init__(self, labels: Sequence[str], output: ValuesOutput, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._kind = output.kind
        self._undo = UNDO[output.kind]
        self._output = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._output,)
        self._check_shape(outputs[self._output])
        self.tensor_specs: Sequence[TensorSpec] = (TensorSpec("VALUES", np.float32, (len(labels),)),)

    def _check_shape(self, found: Sequence[int | None]) -> None:
        labels = len(self.labels)
        if not (labels == 1 and len(found) == 1):
            check_vectors(f"regression with {labels} labels", self._output, found, labels)

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, D], also with two axes of length 1, or [N] for one value."""
        self._check_shape(outputs[self._output].shape)

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> Values:
        values: Values = outputs[self._output][row].astype(np.float64).reshape(-1)
        return values

    def is_sound(self, prediction: Values) -> bool:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(self._undo(prediction)).all())

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> ValueAccumulator:
        return ValueAccumulator(MERGES[merge], self._undo)

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if merge != "mean" or self.keeps_view_results(spec):
            return None
        return SumSpec(self._output, Score.VALUES, Soundness.FINITE, "float64", undo=self._kind)

    def check_mean(self, merge: str) -> None:
        if merge != "mean":
            raise InvalidInput(f"the standard error is that of merge mean, not of {merge}")

    def confidence(self, merged: Values) -> None:
        return None

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return not spec.include.isdisjoint(("views", "uncertainty"))

    def view_result(self, prediction: Values) -> Values:
        return self._undo(prediction)

    def view_result_bytes(self, plain: Placement) -> int:
        return 8 * len(self.labels)

    def result(
        self, merged: Values, views: Sequence[Values], frame: ImageFrame, spec: ResponseSpec
    ) -> RegressionResult:
        own = np.array(views, np.float64).reshape(len(views), len(self.labels))
        unsure = self._uncertainty(own) if "uncertainty" in spec.include else {}
        return RegressionResult(labels=self.labels, values=self._undo(merged), view_values=own, uncertainty=unsure)

    def _uncertainty(self, values: Values) -> dict[str, Any]:
        """Standard deviation, standard error of the mean and range of the values (K, D), in the result's unit."""
        spread = uncertainty.deviation(values)
        return {
            "by_value": {
                label: {
                    "std": uncertainty.rounded(std),
                    "standard_error": uncertainty.rounded(std / sqrt(len(values))),
                    "least": float(column.min()),
                    "most": float(column.max()),
                }
                for label, std, column in zip(self.labels, spread, values.T, strict=True)
            }
        }
