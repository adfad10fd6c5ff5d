"""Where the views of a plan lie on an image of one size, and what that costs in entries and bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tta_server.errors import TooLarge
from tta_server.imaging.placement import Placement
from tta_server.scheduling.costs import Bucket
from tta_server.serving.plan import Plan, plan_bytes
from tta_server.views.geometry import Size
from tta_server.views.view import View

MAX_ENTRIES = 4096
"""The most views times tiles of an image: a layout of 4,050 takes 0.1 ms, or 6 ms if 200 views differ in size."""
QUICK_VIEWS = 16
"""A layout of at most this many views takes less than a millisecond, whatever the number of tiles."""
ENTRY_BYTES = 100
"""What a job stores for each entry."""
LAYOUT_BYTES, PLACEMENT_BYTES = 4000, 1500
"""Bytes of a cached layout by itself and for each placement, measured."""


class Placements(Sequence[Placement]):
    """The placement of each view, or of each tile of each view, in the order of a layout's entries.

    Each is computed on demand, and cached if the image is not tiled.
    """

    def __init__(self, plan: Plan, image: Size) -> None:
        self._plan = plan
        self._image = image
        self._tiles = plan.model.preprocessing.tiles(image)
        self._cache: dict[int, Placement] = {}

    def __len__(self) -> int:
        return len(self._plan.views) * max(1, len(self._tiles))

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Placement]: ...
    def __getitem__(self, index: int | slice) -> Placement | Sequence[Placement]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if (cached := self._cache.get(index)) is not None:
            return cached
        prep, index = self._plan.model.preprocessing, range(len(self))[index]
        if self._tiles:
            view, tile = divmod(index, len(self._tiles))
            return prep.place(self._plan.views[view], self._image, self._tiles[tile])
        return self._cache.setdefault(index, prep.place(self._plan.views[index], self._image))


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Where a plan's views lie on an image of one size.

    There are `tiles` entries for each view, 1 if the image is not tiled. `plain` is the placement of the plain view,
    which tiles are parts of; `canvases` are the sizes of the resized images that the views are cut from.
    """

    plain: Placement
    placements: Placements
    buckets: tuple[Bucket, ...]
    canvases: frozenset[Size]
    tiles: int = 1

    def nbytes(self, plan: Plan) -> int:
        """Bytes that a job holds besides its image: canvases, accumulator, view results, entries."""
        task, depth = plan.model.task, plan.model.preprocessing.depth
        canvases = sum(canvas.area * depth for canvas in self.canvases)
        kept = (
            task.view_result_bytes(self.plain) * len(plan.views) if plan.keeps_view_results and self.tiles == 1 else 0
        )
        return canvases + kept + task.merged_bytes(self.plain, plan.wanted) + ENTRY_BYTES * len(self.buckets)


def make_layout(plan: Plan, image: Size) -> Layout:
    """The layout of a plan on an upright image of this size, cached. Raises TooLarge for more than MAX_ENTRIES."""
    return plan.model.cache.get(
        (plan, image), lambda: _layout(plan, image), lambda layout: plan_bytes(plan) + _layout_bytes(layout)
    )


def _layout_bytes(layout: Layout) -> int:
    kept = len(layout.placements) if layout.tiles == 1 else 0
    return LAYOUT_BYTES + 8 * len(layout.buckets) + PLACEMENT_BYTES * kept


def _layout(plan: Plan, image: Size) -> Layout:
    prep, name = plan.model.preprocessing, plan.model.name
    tiles = prep.tile_count(image)
    _check_entries(plan, image, tiles)
    by_shape: dict[tuple[object, ...], tuple[Bucket, ...]] = {}
    by_size: dict[Size, Bucket] = {}
    buckets: list[Bucket] = []
    for view in plan.views:
        shape = (view.scale, view.anchor, view.geometry.swaps)
        if shape not in by_shape:
            inputs = prep.input_sizes(view, image)
            by_size |= {size: Bucket(name, size.height, size.width) for size in set(inputs) - by_size.keys()}
            by_shape[shape] = tuple(by_size[size] for size in inputs)
        buckets += by_shape[shape]
    canvases = frozenset(prep.canvas_size(image, scale) for scale in {view.scale for view in plan.views})
    return Layout(prep.place(View(), image), Placements(plan, image), tuple(buckets), canvases, tiles)


def _check_entries(plan: Plan, image: Size, tiles: int) -> None:
    views = len(plan.views)
    if views * tiles <= MAX_ENTRIES:
        return
    taken = f"the image is {image}, which {plan.model.name} looks at in {tiles} tiles"
    fewer = "send a smaller image, or state a larger input.tile in the model's tta.yaml"
    if tiles > MAX_ENTRIES:
        raise TooLarge(f"{taken}; at most {MAX_ENTRIES} are taken: {fewer}")
    raise TooLarge(
        f"{taken}; with {views} views these are {views * tiles} inputs, and at most {MAX_ENTRIES} are taken: ask for "
        f"max_views={MAX_ENTRIES // tiles} or less, {fewer}"
    )


def lays_out_quickly(plan: Plan) -> bool:
    """True if `make_layout` takes less than a millisecond, whatever the image's size."""
    return not plan.model.preprocessing.tile or len(plan.views) <= QUICK_VIEWS
