"""Grids of tiles in HEIC files."""

import numpy as np
import pytest
from PIL import Image

from tests.support.corpus import heic
from tests.support.differential import by_pillow
from tests.support.heifs import grid
from tests.support.patterns import smooth
from tta_server.errors import InvalidInput
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.views.geometry import Size

TILE = Image.fromarray(smooth(Size(64, 64)))


@pytest.mark.parametrize(("rows", "columns", "canvas"), [(1, 2, (128, 64)), (3, 2, (120, 170)), (8, 8, (512, 450))])
def test_a_grid_equals_libheif(rows, columns, canvas):
    data = grid(TILE, canvas, rows, columns)
    header = read_header(data, Limits())
    assert header.size == canvas
    np.testing.assert_array_equal(decode(data, header), by_pillow(data, "HEIC"))


@pytest.mark.parametrize("stated", [None, (1000, 1000)])
def test_tiles_far_larger_than_their_grid_are_refused_from_the_header(stated):
    tile = Image.new("RGB", (1000, 1000))
    with pytest.raises(InvalidInput, match="the HEIC image is broken: its tiles have far more pixels than the image"):
        read_header(grid(tile, (1000, 1000), 16, 16, stated=stated), Limits())


@pytest.mark.parametrize("items", [(2,), (1, 2), (7,)])
def test_grids_of_themselves_and_of_unknown_tiles_are_refused(items):
    with pytest.raises(InvalidInput):
        read_header(grid(TILE, (512, 512), 8, 8, items), Limits())


def test_an_image_without_a_grid_is_read():
    data = heic(TILE)["heic"]
    assert read_header(data, Limits()).size == (64, 64)
