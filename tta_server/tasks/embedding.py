"""A vector to compare images by: outputs (N, D), or (N, T, D) of tokens -> one vector of length 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import FORBID_EXTRA, ImageFrame, NoEvidence, ResponseSpec, Result, TaskDefaults, TensorSpec
from tta_server.tasks.shapes import Outputs, Shapes, check_vectors, fits, format_shape, output_name, vector_shapes
from tta_server.tasks.sums import Score, Soundness, Sums, SumSpec
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

Vector = NDArray[np.float64]
UNKNOWN_LENGTH = 4096
"""Length to reserve memory for where the model file leaves it free."""


@dataclass(frozen=True, slots=True)
class VectorOutput:
    """`output:` of a model that gives an embedding: the output's name if the model has several.

    `token` is the vector to take of outputs (N, T, D): the first of the T, or the mean of all.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    name: str | None = None
    token: Literal["first", "mean"] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingResult(Result):
    """One vector for an image.

    `vector` (D,) float32 has length 1, or is all zeros. `view_similarities` (K,) float64: the cosine of the angle
    between each view's own vector and the merged one.
    """

    vector: NDArray[np.float32]
    view_similarities: Vector


def unit(vector: Vector) -> Vector:
    """The vector scaled to length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector.copy()


class VectorAccumulator(NoEvidence):
    """A weighted sum of vectors, each scaled to length 1 for merge `mean_directions`; the result has length 1."""

    def __init__(self, merge: str) -> None:
        self._merges_directions = merge == "mean_directions"
        self._total: Vector | None = None

    def add(self, prediction: Vector, weight: Weight) -> None:
        part = np.asarray(weight) * (unit(prediction) if self._merges_directions else prediction)
        self._total = part if self._total is None else self._total + part

    def add_sums(self, sums: Sums) -> None:
        self._total = sums.total if self._total is None else self._total + sums.total

    def result(self) -> Vector:
        if self._total is None:
            raise ValueError("no prediction was added")
        return unit(self._total)


class Embedding(TaskDefaults):
    name = "embedding"
    Output = VectorOutput
    sees_crops = True
    labels_are = ""
    labels: Sequence[str] = ()
    merges: Sequence[str] = ("mean", "mean_directions")
    stops: Sequence[str] = ("all",)
    includes: Sequence[str] = ("views", "uncertainty")

    def __init__(self, labels: Sequence[str], output: VectorOutput, outputs: Shapes) -> None:
        self._token = output.token
        self._output = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._output,)
        self._check_shape(outputs[self._output])
        length = self._stated_length(outputs[self._output])
        self._length = length or UNKNOWN_LENGTH
        self.tensor_specs: Sequence[TensorSpec] = (TensorSpec("EMBEDDING", np.float32, (length,)),)

    def _check_shape(self, found: Sequence[int | None]) -> None:
        if self._token is None and len(found) == 3:
            raise ConfigError(
                f"embedding needs an output {self._output} of shape [N, D]; the model gives {format_shape(found)}, a "
                "vector for each token: set output.token: first (the class token of ViT, CLIP, DINO) or mean (of all)"
            )
        if self._token is None:
            check_vectors("embedding", self._output, found, "D")
        elif len(found) != 3:
            raise ConfigError(
                f"embedding with output.token: {self._token} needs an output {self._output} of shape [N, T, D]; the "
                f"model gives {format_shape(found)}: leave output.token out"
            )

    def _stated_length(self, found: Sequence[int | None]) -> int | None:
        """The vectors' length by the model file; None where it is free."""
        if self._token is not None:
            return found[2]
        lengths = {found[shape.index("D")] for shape in vector_shapes("D") if fits(found, shape)}
        return lengths.pop() if len(lengths) == 1 else None

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, D], or tokens, and not only zeros, which have no direction."""
        found = outputs[self._output]
        self._check_shape(found.shape)
        if not any(self._vector(row).any() for row in found):
            raise ConfigError(f"embedding needs vectors with a direction; output {self._output} is all zeros")

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> Vector:
        return self._vector(outputs[self._output][row])

    def _vector(self, row: NDArray[Any]) -> Vector:
        """The vector (D,) of one row of the output."""
        values: Vector = row.astype(np.float64)
        if self._token is None:
            return values.reshape(-1)
        vector: Vector = values[0] if self._token == "first" else values.mean(axis=0)
        return vector

    def is_sound(self, prediction: Vector) -> bool:
        return bool(np.isfinite(prediction).all())

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> VectorAccumulator:
        return VectorAccumulator(merge)

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if self._token is not None or self.keeps_view_results(spec):
            return None
        score = Score.UNIT if merge == "mean_directions" else Score.VALUES
        return SumSpec(self._output, score, Soundness.FINITE, "float64")

    def confidence(self, merged: Vector) -> None:
        return None

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return not spec.include.isdisjoint(("views", "uncertainty"))

    def view_result(self, prediction: Vector) -> Vector:
        return unit(prediction)

    def view_result_bytes(self, plain: Placement) -> int:
        return 8 * self._length

    def result(self, merged: Vector, views: Sequence[Vector], frame: ImageFrame, spec: ResponseSpec) -> EmbeddingResult:
        return EmbeddingResult(
            vector=merged.astype(np.float32),
            view_similarities=np.array([np.clip(own @ merged, -1, 1) for own in views], np.float64),
            uncertainty=_spread(np.array(views), merged) if "uncertainty" in spec.include else {},
        )


def _spread(units: Vector, merged: Vector) -> dict[str, Any]:
    """Spherical variance of unit vectors (K, D), and their mean angle to the merged vector in degrees.

    The variance is 1 less the length of the mean (Mardia and Jupp 2000, 9.2.1).
    """
    angles = np.degrees(np.arccos(np.clip(units @ merged, -1, 1)))
    return {
        "spherical_variance": uncertainty.rounded(max(0.0, 1 - float(np.linalg.norm(units.mean(axis=0))))),
        "mean_angle_degrees": uncertainty.rounded(angles.mean()),
    }
