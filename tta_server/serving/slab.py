"""The canvases of a batch that a graph makes views of."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tta_server.compiled.rows import FrontRow
from tta_server.imaging.placement import Placement
from tta_server.imaging.preprocessing import Canvas
from tta_server.imaging.resampling import Part, visible_part
from tta_server.views.view import View


class Slab:
    """The canvases of a batch, each once; of one that is much larger than a view, the part that the view needs."""

    def __init__(self) -> None:
        self.planes: list[NDArray[np.uint8]] = []
        self._index: dict[tuple[Canvas, Part], int] = {}

    def row(self, canvas: Canvas, view: View, placement: Placement) -> FrontRow:
        """The row for a view of a canvas, which is added if it is new."""
        part = visible_part(placement.canvas, placement.to_canvas, placement.frame)
        key = canvas, part
        if key not in self._index:
            self._index[key] = len(self.planes)
            self.planes.append(part.of(canvas.planes))
        if part.size != placement.canvas:
            to_part = placement.to_canvas.then(part.from_whole)
            placement = replace(placement, canvas=part.size, to_canvas=to_part)
        return FrontRow(view, placement, self._index[key])
