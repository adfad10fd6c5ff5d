"""Views made by graphs beside views made on the CPU."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from tests.support.patterns import size_of
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.front import front, front_inputs
from tta_server.compiled.rows import FrontRow, front_table, stack_canvases
from tta_server.imaging.normalization import Normalization

GREY_LEVELS = {"float32": 0.02, "float16": 0.15}
"""How far a pixel of a view that is sampled may be off."""


class GraphFront:
    """The graph of a preprocessing, which makes inputs of a slab and a table."""

    def __init__(self, prep):
        self._session = GraphSession(front(prep))

    def __call__(self, slab, table, tensor):
        return self._session.run(front_inputs(slab, table, tensor))["input"]


class Fronts:
    """What makes the inputs of a preprocessing, the graph unless another is given, and views that it and the CPU make.

    `make` takes a preprocessing, and returns what takes slab, table and size.
    """

    def __init__(self, prep, make=GraphFront):
        self.prep = prep
        self._front = make(prep)

    def batches(self, images, views):
        """Views of all images, in batches of one input size: (rows, made by the front, made on the CPU) of each."""
        canvases, planes = {}, []
        batches = defaultdict(list)
        for number, pixels in enumerate(images):
            for view in views:
                key = number, view.scale
                if key not in canvases:
                    canvases[key] = len(planes), self.prep.canvas(pixels, view.scale)
                    planes.append(canvases[key][1].planes)
                index, canvas = canvases[key]
                placement = self.prep.place(view, size_of(pixels))
                batches[placement.tensor].append((FrontRow(view, placement, index), canvas))
        slab = stack_canvases(planes)
        for tensor, found in batches.items():
            rows = [row for row, _ in found]
            table = front_table(rows, self.prep.channels)
            made = self._front(slab, table, tensor)
            expected = self.prep.empty(len(rows), tensor)
            for (row, canvas), out in zip(found, expected, strict=True):
                self.prep.write(canvas, row.view, row.placement, out)
            yield rows, made, expected


def check_front(prep, images, views, make=GraphFront):
    """Exact rows without colour are equal, others within the limits of their type; returns how many were exact."""
    exact = 0
    for rows, made, expected in Fronts(prep, make).batches(images, views):
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        copied = np.array([row.placement.exact and row.view.color.is_identity for row in rows])
        np.testing.assert_array_equal(made[copied], expected[copied])
        exact += int(copied.sum())
        if prep.dtype == np.uint8:
            _check_rounded(prep, rows, images, views, made, expected)
        else:
            off = np.abs(made.astype(np.float64) - expected) * grey_levels_of_one(prep)
            assert off.max() <= GREY_LEVELS[prep.dtype.name]
    return exact


def grey_levels_of_one(prep):
    """Grey levels that a difference of 1 in the model's input is, by channel."""
    by = prep.normalization
    levels = np.broadcast_to(np.array(by.std) * by.scale, prep.depth)
    return levels if prep.layout == "NHWC" else levels.reshape(-1, 1, 1)


def _check_rounded(prep, rows, images, views, made, expected):
    """Off by one only where the value is rounded at a half."""
    floats = replace(prep, dtype=np.dtype(np.float32), normalization=Normalization(scale=1.0))
    values = next(found for other, _, found in Fronts(floats).batches(images, views) if _same(other, rows))
    at_half = np.abs(values % 1 - 0.5) <= 0.02
    off = np.abs(made.astype(int) - expected)
    assert off.max() <= 1
    assert not off[~at_half].any()


def _same(some, others):
    return [row.placement for row in some] == [row.placement for row in others]
