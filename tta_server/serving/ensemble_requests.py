"""Requests to an ensemble around a model: views of images as its inputs, and the sums among its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.compiled.ensembles import ensemble_outputs
from tta_server.compiled.front import front_inputs
from tta_server.compiled.map_rows import MapRow, map_inputs, map_table
from tta_server.compiled.rows import front_table, stack_canvases
from tta_server.compiled.triton_configs import MAP_NAMES
from tta_server.errors import BackendFailed
from tta_server.imaging.preprocessing import Canvas
from tta_server.repository.graphs import owner_matrix, shaped_maps
from tta_server.repository.model import Model
from tta_server.serving.image import ImageViews
from tta_server.serving.slab import Slab
from tta_server.serving.summing import image_maps, largest_grid, weight_table
from tta_server.tasks.masks.maps import OutputGrid, map_size, output_grid
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.geometry import Size


class Item(NamedTuple):
    """An entry of an image's layout, and the canvas that it is made from."""

    views: ImageViews
    entry: int
    canvas: Canvas


@dataclass(frozen=True, slots=True)
class Request:
    """The ensemble's inputs, and the names of its outputs."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]


def make_request(items: Sequence[Item], spec: SumSpec | None, abort: Abort | None = None) -> Request:
    """Return the request for these entries, which are of one model and size, summed by image as `spec` says.

    To sum maps, the model is run once for each size of input, to learn their size; raises BackendFailed if it fails.
    """
    slab, first = Slab(), items[0]
    rows = [slab.row(canvas, views.view(entry), views.layout.placements[entry]) for views, entry, canvas in items]
    table = front_table(rows, first.views.model.preprocessing.channels)
    inputs = dict(front_inputs(stack_canvases(slab.planes), table, first.views.input_size(first.entry)))
    if spec is None:
        return Request(inputs, list(first.views.model.backend.signature.outputs))
    inputs |= _vector_inputs(items, spec) if spec.offset is None else _map_inputs(items, spec, abort)
    return Request(inputs, list(ensemble_outputs(spec)))


def read_sums(
    items: Sequence[Item], spec: SumSpec, outputs: Outputs
) -> tuple[NDArray[np.bool_], Mapping[ImageViews, Sums]]:
    """Return which entries are sound, and the sums of each image that has some that are. Raises BackendFailed."""
    numbers, owner = _owners(items)
    sound = outputs["sound"]
    for name, values in outputs.items():
        if len(values) != (len(numbers) if name in ("total", "weights") else len(items)):
            raise BackendFailed("the ensemble returned another number of rows than it was given")
    sums = (_vector_sums if spec.offset is None else _map_sums)(items, spec, outputs)
    counts = np.bincount(owner, sound, len(numbers))
    return sound, {views: sums[n] for views, n in numbers.items() if counts[n]}


def _owners(items: Sequence[Item]) -> tuple[Mapping[ImageViews, int], NDArray[np.intp]]:
    """A number for each image, and that of each item's image."""
    numbers = {views: n for n, views in enumerate(dict.fromkeys(item.views for item in items))}
    return numbers, np.array([numbers[item.views] for item in items])


# ---- vectors ----


def _vector_inputs(items: Sequence[Item], spec: SumSpec) -> Mapping[str, Tensor]:
    weights = weight_table([views.view(entry).weight for views, entry, _ in items])
    return {"weight": weights.astype(spec.dtype), "owner": owner_matrix(_owners(items)[1], spec.dtype)}


def _vector_sums(items: Sequence[Item], spec: SumSpec, outputs: Outputs) -> Sequence[Sums]:
    by_class = {views for views, entry, _ in items if isinstance(views.view(entry).weight, tuple)}
    each = zip(_owners(items)[0], outputs["total"], outputs["weights"], strict=True)
    return [Sums(own, weight if views in by_class else weight[0]) for views, own, weight in each]


# ---- maps ----


def _map_inputs(items: Sequence[Item], spec: SumSpec, abort: Abort | None) -> Mapping[str, Tensor]:
    maps, grid = _maps(items, spec, abort)
    rows = [MapRow(v.layout.placements[e], float(v.view(e).weight)) for v, e, _ in items]  # type: ignore[arg-type]
    z = np.broadcast_to(np.float32(0), (1, 1, maps.height, maps.width))
    owner = owner_matrix(_owners(items)[1], spec.dtype)
    found = map_inputs(z, map_table(rows, grid, maps), owner, _cells(items, grid), bool(spec.mirror_order))
    return {MAP_NAMES.get(name, name): value for name, value in found.items() if name != "z"}


def _map_sums(items: Sequence[Item], spec: SumSpec, outputs: Outputs) -> Sequence[Sums]:
    _, grid = _maps(items, spec)
    classes = outputs["total"].shape[1] // _cells(items, grid).area
    found = shaped_maps(outputs, classes, _cells(items, grid))
    return image_maps(spec, found, [(views, entry) for views, entry, _ in items], _owners(items)[1], grid)


def _maps(items: Sequence[Item], spec: SumSpec, abort: Abort | None = None) -> tuple[Size, OutputGrid]:
    """The size of the maps that the model gives for these entries, and their grid."""
    views, entry, _ = items[0]
    maps = _map_size(views.model, views.input_size(entry), spec.output, abort)
    return maps, output_grid(maps, views.layout.placements[entry], spec.offset or 0.0)


def _cells(items: Sequence[Item], grid: OutputGrid) -> Size:
    """Columns and rows of the largest plain grid."""
    return largest_grid((item.views.layout.plain.whole for item in items), grid)


def _map_size(model: Model, size: Size, output: str, abort: Abort | None) -> Size:
    """The size of the model's maps for an input of this size: measured by one run, then cached."""

    def measure() -> Size:
        batch = model.preprocessing.empty(1, size)
        batch.fill(0)
        return map_size(model.backend.infer(batch, abort)[output])

    return model.cache.get((_map_size, size, output), measure, lambda _: 200)
