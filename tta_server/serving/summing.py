"""Sums a batch's outputs by image, through a graph."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.compiled.map_rows import MapRow, map_table
from tta_server.repository.pipeline import BatchOutputs
from tta_server.serving.executor import Entries, unsound
from tta_server.serving.image import SUMMED, UNREADABLE, ImageViews, ViewError
from tta_server.tasks.masks.maps import MapSums, OutputGrid, output_grid
from tta_server.tasks.points.poses import HeatSums
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

Rows = Sequence[tuple[tuple[ImageViews, int], int]]
"""(image, entry) and the row of the outputs that is its."""
SumsOf = Callable[[ImageViews], SumSpec | None]


def sums_of(views: ImageViews) -> SumSpec | None:
    """How a graph may sum the views of an image; None for tiles, which are blended into a part of the grid."""
    spec = views.plan.sums
    return None if spec is None or (spec.offset is not None and views.layout.tiles > 1) else spec


def no_sums(views: ImageViews) -> SumSpec | None:
    """For those who need the prediction of each view."""
    return None


@dataclass(frozen=True, slots=True)
class SummedRows:
    """SUMMED or a ViewError for each row, and the sums of each image that has sound rows."""

    predictions: Mapping[int, Any | ViewError]
    sums: Mapping[ImageViews, Sums]


def sum_batch(outputs: BatchOutputs, spec: SumSpec, rows: Rows) -> SummedRows:
    """Sum these rows by image. If that fails, each row has the error."""
    number = {views: n for n, views in enumerate(dict.fromkeys(views for (views, _), _ in rows))}
    owner = np.array([number[views] for (views, _), _ in rows])
    try:
        sums, sound = (_sum_vectors if spec.offset is None else _sum_maps)(outputs, spec, rows, owner)
    except Exception as error:  # noqa: BLE001 - logged by the job
        return SummedRows({row: ViewError(error, UNREADABLE) for _, row in rows}, {})
    predictions = {row: SUMMED if ok else unsound(*item) for (item, row), ok in zip(rows, sound, strict=True)}
    counts = np.bincount(owner, sound, len(number))
    return SummedRows(predictions, {views: sums[n] for views, n in number.items() if counts[n]})


def _sum_vectors(
    outputs: BatchOutputs, spec: SumSpec, rows: Rows, owner: NDArray[np.intp]
) -> tuple[Sequence[Sums], Tensor]:
    """The sums of each image, and which rows are sound."""
    weights = [views.view(entry).weight for (views, entry), _ in rows]
    found = outputs.sum_vectors(spec, [row for _, row in rows], weight_table(weights), owner)
    by_class = np.bincount(owner, [isinstance(weight, tuple) for weight in weights]) > 0
    each = zip(found["total"], found["weights"], by_class, strict=True)
    return [Sums(total, weight if has_classes else weight[0]) for total, weight, has_classes in each], found["sound"]


def _sum_maps(
    outputs: BatchOutputs, spec: SumSpec, rows: Rows, owner: NDArray[np.intp]
) -> tuple[Sequence[Sums], Tensor]:
    """The same of maps, on the grid of each image's plain view."""
    placements = [views.layout.placements[entry] for (views, entry), _ in rows]
    height, width = outputs.shape(spec.output)[2:]
    maps = Size(width, height)
    grid = output_grid(maps, placements[0], spec.offset or 0.0)
    weights = [_number(views.view(entry).weight) for (views, entry), _ in rows]
    table = map_table([MapRow(*row) for row in zip(placements, weights, strict=True)], grid, maps)
    largest = largest_grid([placement.whole for placement in placements], grid)
    found = outputs.sum_maps(spec, [row for _, row in rows], table, owner, largest)
    return image_maps(spec, found, [item for item, _ in rows], owner, grid), found["sound"]


def largest_grid(frames: Iterable[Size], grid: OutputGrid) -> Size:
    """Columns and rows of cells that hold each of these plain frames."""
    cells = [grid.cells(frame) for frame in frames]
    return Size(max(size.width for size in cells), max(size.height for size in cells))


def image_maps(
    spec: SumSpec, found: Outputs, items: Entries, owner: NDArray[np.intp], grid: OutputGrid
) -> Sequence[Sums]:
    """The sums of each image, from `total` (N, C, H, W), `weights` (N, H, W) and, of heat maps, `sound` and `peaks`.

    `owner` (B,) has the number of each item's image.
    """
    sums: list[Sums] = []
    for n, (total, weights) in enumerate(zip(found["total"], found["weights"], strict=True)):
        own = np.flatnonzero(owner == n)
        cells = grid.cells(items[int(own[0])][0].layout.plain.whole)
        part = total[:, : cells.height, : cells.width], weights[: cells.height, : cells.width], grid
        if not spec.mirror_order:
            sums.append(MapSums(*part))
            continue
        sound = [int(row) for row in own if found["sound"][row]]
        views = [(items[row][0].layout.placements[items[row][1]], _weight(items[row])) for row in sound]
        sums.append(HeatSums(*part, found["peaks"][sound], views))
    return sums


def _weight(item: tuple[ImageViews, int]) -> Weight:
    views, entry = item
    return views.view(entry).weight


def _number(weight: Weight) -> float:
    assert not isinstance(weight, tuple)  # a plan with weights by class has no sums of maps
    return weight


def weight_table(weights: Sequence[Weight]) -> NDArray[np.float64]:
    """(B, 1), or (B, C) if any of them are by class."""
    by_class = max((len(weight) for weight in weights if isinstance(weight, tuple)), default=1)
    return np.array([np.broadcast_to(weight, by_class) for weight in weights], np.float64)
