"""Results of regression and embedding, rendered."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tta_server.tasks.base import ResponseSpec, Tensors
from tta_server.tasks.embedding import EmbeddingResult
from tta_server.tasks.regression import RegressionResult, Values
from tta_server.tasks.render.renderer import Renderer


class RegressionRenderer(Renderer[RegressionResult]):
    def prediction(self, result: RegressionResult, spec: ResponseSpec) -> dict[str, Any]:
        return {"values": _named(result.labels, result.values)}

    def views(self, result: RegressionResult) -> list[dict[str, Any]]:
        return [{"values": _named(result.labels, own)} for own in result.view_values]

    def tensors(self, result: RegressionResult, names: frozenset[str]) -> Tensors:
        """A value that float32 can't hold becomes its largest: JSON has no infinity."""
        most = np.finfo(np.float32).max
        return {"VALUES": np.clip(result.values, -most, most).astype(np.float32)}

    def lines(self, result: RegressionResult, top_k: int) -> list[str]:
        return [f"{label} {value:.4g}" for label, value in _named(result.labels, result.values).items()]


class EmbeddingRenderer(Renderer[EmbeddingResult]):
    def prediction(self, result: EmbeddingResult, spec: ResponseSpec) -> dict[str, Any]:
        return {"dimensions": len(result.vector), "embedding": result.vector.tolist()}

    def views(self, result: EmbeddingResult) -> list[dict[str, Any]]:
        return [{"similarity": float(similarity)} for similarity in result.view_similarities]

    def tensors(self, result: EmbeddingResult, names: frozenset[str]) -> Tensors:
        return {"EMBEDDING": result.vector}

    def lines(self, result: EmbeddingResult, top_k: int) -> list[str]:
        first = ", ".join(f"{value:.3f}" for value in result.vector[:4].tolist())
        return [f"{len(result.vector)} numbers: {first}, ..."]


def _named(labels: Sequence[str], values: Values) -> dict[str, float]:
    return {label: float(value) for label, value in zip(labels, values, strict=True)}
