"""Detectors that give a row for each cell of grids over the input: whether their boxes lie at their cells."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.cells import cells, count_cells
from tta_server.tasks.boxes.evidence import are_no_padding, format_finding
from tta_server.tasks.boxes.frames import CORNERS
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.reader import RawRows
from tta_server.tasks.checks import CardRun, Finding
from tta_server.views.geometry import Size

Doubles = NDArray[np.float64]

STRIDES = (8, 16, 32, 64)
"""Pixels of the input for a cell of a grid; detectors have some of these."""
LEAST_SIDE = 64
"""Pixels of an input's sides under which grids are too small to show anything."""
LEAST_ROWS = 64
"""The same, in cells: fewer rows are what a model found, of which there may be as many by chance."""
SMALL = 12.0
"""Numbers up to which offsets in a cell and logarithms of sides come. Boxes in pixels at all cells reach further."""
WHOLE = 1.5
"""Fraction of the input's size up to which boxes reach."""
SOME = 0.02
"""Share of boxes with a negative side, from which on sides are logarithms."""


def grids(size: Size, boxes: NDArray[Any]) -> tuple[int, ...]:
    """The strides whose grids over an input of this size have a cell for each of the boxes; none if there are none."""
    if min(size) < LEAST_SIDE or len(boxes) < LEAST_ROWS or are_no_padding(boxes).mean() < 0.9:
        return ()
    for count in range(len(STRIDES), 0, -1):
        for strides in combinations(STRIDES, count):
            if len(boxes) == count_cells(size, strides):
                return strides
    return ()


def undecoded_finding(output: BoxesOutput, raws: Sequence[RawRows], runs: Sequence[CardRun]) -> Finding | None:
    """Rows for the cells of grids whose numbers are all small, but no fractions of the input's size.

    Or, for a head that gives such numbers, rows whose numbers are large.
    """
    if output.strides:
        return _decoded_finding(output, raws)
    strides = () if raws[0].numbers is not None else grids(runs[0].tensor, raws[0].boxes)
    boxes = np.concatenate([raw.boxes for raw in raws])
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not strides or not len(boxes):
        return None
    most = np.quantile(np.abs(boxes), 0.99)
    are_logarithms = (boxes[:, 2:] < 0).any(axis=1).mean() >= SOME
    if most > SMALL or not (are_logarithms or (output.units == "pixels" and most > WHOLE)):
        return None
    return Finding(
        "boxes.grid",
        f"the model's boxes are offsets in grids of stride {', '.join(map(str, strides))} and logarithms of sides, "
        "not boxes of the input; set output.head: yolox, which decodes them, or export the model with its decoding, "
        "as YOLOX does with --decode_in_inference",
    )


def _decoded_finding(output: BoxesOutput, raws: Sequence[RawRows]) -> Finding | None:
    """Boxes in pixels where offsets and logarithms are stated: most rows have a number that neither comes to."""
    boxes = np.concatenate([raw.boxes for raw in raws])
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes) or np.median(np.abs(boxes).max(axis=1)) <= SMALL:
        return None
    return Finding(
        "boxes.grid",
        f"output.head {output.head} means offsets in grids and logarithms of sides, but the model gives numbers up to "
        f"{np.abs(boxes).max():g}: its boxes are decoded; set output.head: yolov5, which reads them as they are",
    )


def off_grid_finding(output: BoxesOutput, raws: Sequence[RawRows], runs: Sequence[CardRun]) -> Finding | None:
    """Boxes that lie over a cell away from their own, but near it in another format."""
    size, boxes = runs[0].tensor, raws[0].boxes.astype(np.float64)
    strides = () if raws[0].numbers is not None or output.strides else grids(size, boxes)
    if not strides or not np.isfinite(boxes).all():
        return None
    distance = {form: _distance(CORNERS[form](boxes), output.units, size, strides) for form in CORNERS}
    best = min(distance.values())
    stated = distance[output.format]
    if stated < 1 or best > min(2, stated / 2):
        return None
    fitting = [form for form, found in distance.items() if found <= 1.1 * best]
    return format_finding(output, f"boxes lie {stated:.1f} cells away from the cell that finds them", fitting)


def _distance(corners: Doubles, units: str, size: Size, strides: tuple[int, ...]) -> float:
    """How far the middles of boxes, in either direction, lie from the middles of their cells: the median, in cells."""
    if units == "normalized":
        corners = corners * np.tile(size, 2)
    middles, lengths = cells(size, strides)
    off = np.abs((corners[:, :2] + corners[:, 2:]) / 2 - middles).max(axis=1)
    return float(np.median(off / lengths))
