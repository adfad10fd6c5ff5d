"""Asks an ensemble that `tta-server export-triton` wrote: an image's views as its inputs, its outputs merged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tta_server.backends import Outputs, Tensor
from tta_server.compiled.front import front_inputs
from tta_server.compiled.map_rows import MapRow, map_inputs, map_table
from tta_server.compiled.rows import front_table, stack_canvases
from tta_server.compiled.triton_configs import LADDER, MAP_NAMES
from tta_server.errors import BackendFailed, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.repository.model import Model
from tta_server.serving.executor import read_row
from tta_server.serving.graph_executor import Slab, sums_of
from tta_server.serving.image import Image, ImageViews, ViewError, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.merged_views import MergedViews
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.summing import weight_table
from tta_server.tasks import Result
from tta_server.tasks.masks.maps import MapSums, OutputGrid, map_size, output_grid
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.geometry import Size


def ensemble_plan(model: Model, policy: str | None = None) -> Plan:
    """The plan of an ensemble, which runs all views of a policy, by default the model's. Raises InvalidInput."""
    return make_plan(model, Options(policy=policy, stop="all", min_views="all"))


@dataclass(frozen=True, slots=True)
class EnsembleRequest:
    """Inputs and names of outputs of the ensemble, for some entries of the layout that are of one size."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    entries: Sequence[int]


class EnsembleImage:
    """An image's views as requests to an ensemble, and their merged result.

    `left_out` names the views whose outputs hold NaN or infinity.
    """

    def __init__(self, model: Model, image: Image, policy: str | None = None, rows: int = LADDER[-1]) -> None:
        """`image` is an encoded image or upright RGB pixels; a request has at most `rows` rows.

        Raises InvalidInput, UnsupportedMedia or TooLarge.
        """
        plan = ensemble_plan(model, policy)
        source = read_source(image, Limits(), model.preprocessing.rendering)
        self._views = views = ImageViews(plan, make_layout(plan, source.size), source.size)
        self._sums = sums_of(views)
        if self._sums is None and plan.sums is not None:
            raise InvalidInput(
                f"the image is {source.size}, which {model.name} looks at in {views.layout.tiles} tiles, and the "
                "ensemble sums whole images only; send a smaller image, or run tta-server"
            )
        views.decode(source)
        self._rows = rows
        self._merged = MergedViews(views, plan.keeps_view_results and views.layout.tiles == 1)
        self._found: list[int] = []
        self.left_out: list[str] = []

    def requests(self) -> Iterator[EnsembleRequest]:
        """All requests, of at most `rows` views of one size each."""
        by_size: dict[Size, list[int]] = {}
        for entry in range(len(self._views.layout.buckets)):
            by_size.setdefault(self._views.input_size(entry), []).append(entry)
        for entries in by_size.values():
            for first in range(0, len(entries), self._rows):
                yield self._request(entries[first : first + self._rows])

    def _request(self, entries: Sequence[int]) -> EnsembleRequest:
        views, slab, rows = self._views, Slab(), []
        for entry in entries:
            canvas = views.canvas(entry)
            assert canvas is not None  # decoded, and never closed
            rows.append(slab.row(canvas, views.view(entry), views.layout.placements[entry]))
        table = front_table(rows, views.model.preprocessing.channels)
        inputs = dict(front_inputs(stack_canvases(slab.planes), table, views.input_size(entries[0])))
        if self._sums is None:
            return EnsembleRequest(inputs, list(views.model.backend.signature.outputs), entries)
        owner = np.ones((1, len(entries)), self._sums.dtype)
        if self._sums.offset is not None:
            inputs |= self._map_inputs(entries, owner, self._sums)
        else:
            weights = weight_table([views.view(entry).weight for entry in entries])
            inputs |= {"weight": weights.astype(self._sums.dtype), "owner": owner}
        return EnsembleRequest(inputs, ("total", "weights", "sound"), entries)

    def _map_inputs(self, entries: Sequence[int], owner: Tensor, spec: SumSpec) -> Mapping[str, Tensor]:
        views = self._views
        maps, grid = self._grid(entries[0], spec)
        rows = [MapRow(views.layout.placements[e], float(views.view(e).weight)) for e in entries]  # type: ignore[arg-type]
        table = map_table(rows, grid, Size(maps.shape[3], maps.shape[2]))
        found = map_inputs(maps, table, owner, grid.cells(views.layout.plain.whole))
        return {MAP_NAMES.get(name, name): value for name, value in found.items() if name != "z"}

    def _grid(self, entry: int, spec: SumSpec) -> tuple[Tensor, OutputGrid]:
        """Maps of the size that the model gives for an entry, and their grid."""
        size = self._views.input_size(entry)
        maps = np.broadcast_to(np.float32(0), _map_shape(self._views.model, size, spec.output))
        return maps, output_grid(map_size(maps), self._views.layout.placements[entry], spec.offset or 0.0)

    def add(self, request: EnsembleRequest, outputs: Outputs) -> None:
        """Merge the ensemble's outputs for a request. Raises BackendFailed if they can't be read."""
        sound = outputs["sound"] if self._sums else self._read(request.entries, outputs)
        for entry, is_sound in zip(request.entries, sound, strict=True):
            if is_sound:
                self._found.append(entry)
            else:
                self.left_out.append(self._views.view(entry).name)
        if self._sums and np.any(sound):
            sums = self._sums_in(request, outputs, self._sums)
            _raise_first(self._merged.add_sums([(entry, None) for entry in request.entries], sums))

    def _read(self, entries: Sequence[int], outputs: Outputs) -> Sequence[bool]:
        """Merge rows one by one; returns which are sound."""
        found = [(entry, read_row(self._views, entry, outputs, row)) for row, entry in enumerate(entries)]
        usable = [(entry, each) for entry, each in found if not isinstance(each, ViewError)]
        _raise_first(self._merged.add(usable))
        return [not isinstance(each, ViewError) for _, each in found]

    def _sums_in(self, request: EnsembleRequest, outputs: Outputs, spec: SumSpec) -> Sums:
        total, weights = outputs["total"][0], outputs["weights"][0]
        if spec.offset is None:
            return Sums(total, weights if len(weights) > 1 else weights[0])
        _, grid = self._grid(request.entries[0], spec)
        cells = grid.cells(self._views.layout.plain.whole)
        shape = cells.height, cells.width
        return MapSums(total.reshape(-1, *shape), weights.reshape(shape), grid)

    def result(self) -> Result:
        """The merged result of all requests added so far. Raises BackendFailed if there is no view in it."""
        if not self._found:
            raise BackendFailed("no view has an output without NaN and infinity")
        plan = self._views.plan
        kept = [own for entry in sorted(self._found) if (own := self._merged.result_of(entry)) is not None]
        merged: Any = self._merged.accumulator.result()
        return plan.model.task.result(merged, kept, self._views.frame, plan.wanted)


def _map_shape(model: Model, size: Size, output: str) -> tuple[int, ...]:
    """Shape (1, C, h, w) of the model's maps for an input of this size: measured by one run, then cached."""

    def measure() -> tuple[int, ...]:
        batch = model.preprocessing.empty(1, size)
        batch.fill(0)
        return model.backend.infer(batch)[output].shape

    return model.cache.get((_map_shape, size, output), measure, lambda _: 200)


def _raise_first(problems: Mapping[int, ViewError]) -> None:
    for problem in problems.values():
        raise problem.failure
