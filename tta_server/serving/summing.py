"""Sums a batch's outputs by image, through a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs
from tta_server.repository.graphs import ViewGraphs
from tta_server.serving.executor import unsound
from tta_server.serving.image import SUMMED, UNREADABLE, ImageViews, ViewError
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.view import Weight

Rows = Sequence[tuple[tuple[ImageViews, int], int]]
"""(image, entry) and the row of the outputs that is its."""


@dataclass(frozen=True, slots=True)
class SummedRows:
    """SUMMED or a ViewError for each row, and the sums of each image that has sound rows."""

    predictions: Mapping[int, Any | ViewError]
    sums: Mapping[ImageViews, Sums]


def sum_batch(graphs: ViewGraphs, spec: SumSpec, rows: Rows, outputs: Outputs) -> SummedRows:
    """Sum these rows by image. If that fails, each row has the error."""
    images = list(dict.fromkeys(views for (views, _), _ in rows))
    number = {views: n for n, views in enumerate(images)}
    owner = np.array([number[views] for (views, _), _ in rows])
    weights = [views.view(entry).weight for (views, entry), _ in rows]
    try:
        z = outputs[spec.output][[row for _, row in rows]]
        found = graphs.sum_vectors(spec, z.reshape(len(z), -1), _weight_table(weights), owner)
    except Exception as error:  # noqa: BLE001 - logged by the job
        return SummedRows({row: ViewError(error, UNREADABLE) for _, row in rows}, {})
    sound = found["sound"]
    predictions = {row: SUMMED if ok else unsound(*item) for (item, row), ok in zip(rows, sound, strict=True)}
    has_sound = np.bincount(owner, sound, len(images)) > 0
    by_class = np.bincount(owner, [isinstance(weight, tuple) for weight in weights], len(images)) > 0
    sums = {
        views: Sums(found["total"][n], found["weights"][n] if by_class[n] else found["weights"][n, 0])
        for views, n in number.items()
        if has_sound[n]
    }
    return SummedRows(predictions, sums)


def _weight_table(weights: Sequence[Weight]) -> NDArray[np.float64]:
    """(B, 1), or (B, C) if any of them are by class."""
    by_class = max((len(weight) for weight in weights if isinstance(weight, tuple)), default=1)
    return np.array([np.broadcast_to(weight, by_class) for weight in weights], np.float64)
