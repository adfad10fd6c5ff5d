"""Score maps of several views of one image, merged."""

import numpy as np

from tta_server.tasks.base import Floats, ImageFrame, NoEvidence, Remaining
from tta_server.tasks.masks.decoders import MaskDecoder
from tta_server.tasks.masks.maps import (
    MapPrediction,
    MapSums,
    OutputGrid,
    ScoreMaps,
    first_cell,
    image_strips,
    view_coverage,
)
from tta_server.tasks.scores.merging import ScoreAccumulator
from tta_server.tasks.sums import Sums
from tta_server.views.view import Weight


class MapAccumulator(NoEvidence):
    """A ScoreAccumulator of maps, and a second one for votes where those are requested."""

    def __init__(
        self, scores: ScoreAccumulator, votes: ScoreAccumulator | None, frame: ImageFrame, decoder: MaskDecoder
    ) -> None:
        self._scores = scores
        self._votes = votes
        self._frame = frame
        self._decoder = decoder
        self._grid = OutputGrid()

    def add(self, prediction: MapPrediction, weight: Weight) -> None:
        for merged in (self._scores, self._votes):
            if merged is None:
                continue
            if self._frame.tiles == 1:
                merged.add(prediction.values, weight, prediction.coverage)
            else:
                cells = prediction.grid.cells(self._frame.plain.whole)
                merged.add_part(prediction.values, weight, prediction.coverage, prediction.corner, cells)
        self._grid = prediction.grid  # last: a view that can't be added leaves the merge as it was

    def add_sums(self, sums: Sums) -> None:
        """Adds sums over several views, which are MapSums; not for tiles, and not where votes are counted."""
        assert isinstance(sums, MapSums)
        self._scores.add_sums(sums.total, sums.weights)
        self._grid = sums.grid

    def result(self) -> ScoreMaps:
        votes = self._votes.result() if self._votes else None
        return ScoreMaps(self._scores.result(), votes=votes, grid=self._grid)

    def undecided(self, remaining: Remaining) -> float:
        """Share of the image's pixels that the remaining views could change, at the size of the mask."""
        least, most = self._scores.bounds(self._remaining_weight(remaining))
        reach = (most - least)[:1]  # the same for each class
        if not self._decoder.may_be_decided(float(reach.min())):
            return 1.0
        decided = 0
        least = least[self._decoder.relevant(least)]
        for _, strip in image_strips(np.concatenate([least, reach]), self._grid, self._frame):
            decided += int(np.count_nonzero(self._decoder.decided(strip[:-1], strip[-1])))
        return 1 - decided / self._frame.image.area

    def _remaining_weight(self, remaining: Remaining) -> Floats:
        """Weight of the remaining views: a number, or a map (h, w) where some of them show only a part."""
        left = np.zeros((), np.float32)
        for placement, weight in remaining:
            assert not isinstance(weight, tuple)  # weights by class have no bound
            coverage = view_coverage(placement, self._grid)
            part = np.float32(weight) * (np.float32(1) if coverage is None else coverage)
            if placement.tile is None:
                left = left + part
                continue
            if not left.ndim:
                left = np.zeros(self._grid.cells(placement.whole)[::-1], np.float32)
            x, y = first_cell(placement.tile, self._grid)
            size = self._grid.cells(placement.tile.size)
            left[y : y + size.height, x : x + size.width] += part
        return left
