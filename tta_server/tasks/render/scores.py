"""Results of classification and multilabel, rendered."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tta_server.tasks.base import Floats, ResponseSpec, Tensors, texts
from tta_server.tasks.render.renderer import Renderer
from tta_server.tasks.scores.results import ClassificationResult, MultilabelResult

Scored = ClassificationResult | MultilabelResult


class ClassificationRenderer(Renderer[ClassificationResult]):
    def prediction(self, result: ClassificationResult, spec: ResponseSpec) -> dict[str, Any]:
        top = [_entry(result.labels, result.probabilities, i) for i in _order(result)[: spec.top_k]]
        return {"top": top} | _included(result, spec)

    def views(self, result: ClassificationResult) -> list[dict[str, Any]]:
        return [_entry(result.labels, own, int(own.argmax())) for own in result.view_probabilities]

    def tensors(self, result: ClassificationResult, names: frozenset[str]) -> Tensors:
        return {
            "PROBABILITIES": result.probabilities,
            "LABEL": texts([result.label]),
            "INDEX": np.array([result.index], np.int32),
        }

    def lines(self, result: ClassificationResult, top_k: int) -> list[str]:
        return _lines(result, top_k)


class MultilabelRenderer(Renderer[MultilabelResult]):
    def prediction(self, result: MultilabelResult, spec: ResponseSpec) -> dict[str, Any]:
        order, present = _order(result), result.present
        return {
            "labels": [result.labels[i] for i in order if present[i]],
            "top": [_entry(result.labels, result.probabilities, i) for i in order[: spec.top_k]],
        } | _included(result, spec)

    def views(self, result: MultilabelResult) -> list[dict[str, Any]]:
        present = result.view_probabilities >= result.threshold
        return [{"labels": [result.labels[i] for i in np.flatnonzero(own).tolist()]} for own in present]

    def tensors(self, result: MultilabelResult, names: frozenset[str]) -> Tensors:
        return {"PROBABILITIES": result.probabilities, "PRESENT": result.present}

    def lines(self, result: MultilabelResult, top_k: int) -> list[str]:
        return _lines(result, top_k)


def _order(result: Scored) -> list[int]:
    """Classes by falling probability, ties to the lower."""
    order: list[int] = np.argsort(-result.probabilities, kind="stable").tolist()
    return order


def _included(result: Scored, spec: ResponseSpec) -> dict[str, Any]:
    included: dict[str, Any] = {}
    if "probabilities" in spec.include:
        included["probabilities"] = [float(p) for p in result.probabilities]
    if "agreement" in spec.include:
        included["agreement"] = result.agreement
    return included


def _lines(result: Scored, top_k: int) -> list[str]:
    return [f"{result.labels[i]} {float(result.probabilities[i]):.3f}" for i in _order(result)[:top_k]]


def _entry(labels: Sequence[str], probabilities: Floats, index: int) -> dict[str, Any]:
    return {"label": labels[index], "index": index, "probability": float(probabilities[index])}
