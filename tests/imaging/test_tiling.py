"""Images larger than a model's input are cut into overlapping tiles."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.patterns import noise
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view, read_views
from tta_server.views.view import View

TILED = Preprocessing(multiple=8, max_size=64, tile=48, overlap=10)
sizes = st.builds(Size, st.integers(1, 200), st.integers(65, 200)) | st.builds(
    Size, st.integers(65, 200), st.integers(1, 200)
)


# ---- the grid of tiles ----


@given(sizes)
def test_tiles_cover_the_frame_and_overlap_their_neighbours(image):
    seen = np.zeros((image.height, image.width), int)
    for tile in TILED.tiles(image):
        assert max(tile.size) <= 48
        assert tile.left % 8 == tile.top % 8 == 0
        seen[tile.top : tile.top + tile.size.height, tile.left : tile.left + tile.size.width] += 1
    assert seen.min() >= 1


@given(sizes)
def test_neighbours_share_the_overlap_up_to_rounding_to_multiples(image):
    for tile in TILED.tiles(image):
        left, top, right, below = tile.overlaps
        assert (left == 0) == (tile.left == 0)
        assert (top == 0) == (tile.top == 0)
        assert (right == 0) == (tile.left + tile.size.width == image.width)
        assert (below == 0) == (tile.top + tile.size.height == image.height)
        assert all(overlap == 0 or overlap >= 3 for overlap in tile.overlaps)


def test_two_tiles_by_hand():
    one, other = TILED.tiles(Size(80, 20))
    assert (one.left, one.size, one.overlaps) == (0, Size(48, 20), (0, 0, 16, 0))
    assert (other.left, other.size, other.overlaps) == (32, Size(48, 20), (16, 0, 0, 0))


def test_an_image_that_fits_has_no_tiles():
    assert TILED.tiles(Size(64, 64)) == ()


@given(
    sizes,
    st.sampled_from(
        ["identity", "hflip", "transpose", {"rotate": 9}, {"scale": 1.25}, {"scale": 0.77}, {"window": "top_left"}]
    ),
    st.sampled_from([1, 8]),
)
def test_input_sizes_are_those_of_the_placements(image, spec, multiple):
    prep, view = replace(TILED, multiple=multiple), read_view(spec)
    tiles = prep.tiles(image)
    assert prep.tile_count(image) == len(tiles) == len(list(tiles))
    assert prep.input_sizes(view, image) == [prep.place(view, image, tile).tensor for tile in tiles]
    assert tiles[-1] == list(tiles)[-1]
    assert list(tiles[1:3]) == list(tiles)[1:3]


def test_a_tile_of_an_image_of_more_than_15_bits_a_side_is_sampled():
    """It equals the same tile of a narrower image."""
    prep, view = Preprocessing(max_size=16_384, tile=16_384), read_view({"zoom": 1.5})
    wide = noise(Size(40_000, 6))
    shown = []
    for pixels in (wide, wide[:, :30_000]):
        image = Size(pixels.shape[1], 6)
        placement = prep.place(view, image, prep.tiles(image)[0])
        batch = prep.empty(1, placement.tensor)
        prep.write(prep.canvas(pixels, 1.0), view, placement, batch[0])
        shown.append(batch[0])
    np.testing.assert_array_equal(*shown)


def test_tiles_of_views_of_one_scale_have_few_input_sizes():
    views = read_views(["identity", "hflip", {"scale": 1.25}])
    placements = [TILED.place(view, Size(150, 111), tile) for view in views for tile in TILED.tiles(Size(150, 111))]
    assert len({placement.tensor for placement in placements}) <= 4


# ---- merged predictions ----


EXACT = ["identity", "hflip", "vflip", {"rot90": 1}, {"rot90": 3}, "transpose", ["antitranspose", {"shift": [8, -16]}]]


@given(sizes, st.sampled_from(EXACT), st.sampled_from([1, 4]))
def test_the_undone_tiles_of_an_exact_view_equal_the_plain_view(image, spec, stride):
    pixels, view = noise(image), read_view(spec)
    scene = ImageFrame(image, TILED.place(View(), image), len(TILED.tiles(image)))
    task = Segmentation(("red", "green", "blue"), MapsOutput("probabilities"), {"maps": (None, 3, None, None)})
    plain, merged = (task.accumulator("mean_probabilities", ResponseSpec(), scene) for _ in range(2))
    canvas = TILED.canvas(pixels, 1.0)
    for accumulator, shown in ((plain, View()), (merged, View()), (merged, view)):
        for tile in TILED.tiles(image):
            placement = TILED.place(shown, image, tile)
            batch = TILED.empty(1, placement.tensor)
            TILED.write(canvas, shown, placement, batch[0])
            scores = batch.reshape(1, 3, placement.tensor.height // stride, stride, -1, stride).mean(axis=(3, 5))
            accumulator.add(task.decode({"maps": scores}, 0, placement, scene), 1.0)
    if stride == 1:
        np.testing.assert_allclose(merged.result().scores, plain.result().scores, atol=1e-5)
        expected = TILED.normalized(pixels.transpose(2, 0, 1).astype(np.float32))
        np.testing.assert_allclose(plain.result().scores, expected, atol=1e-5)
    assert plain.result().scores.shape == (3, -(-image.height // stride), -(-image.width // stride))


def test_disagreeing_tiles_blend_along_half_a_cosine():
    """Two tiles of an 80x20 image share the columns 32 to 47: the first predicts red, the second green."""
    image = Size(80, 20)
    tiles = TILED.tiles(image)
    task = Segmentation(("red", "green", "blue"), MapsOutput("probabilities"), {"maps": (None, 3, None, None)})
    scene = ImageFrame(image, TILED.place(View(), image), len(tiles))
    merged = task.accumulator("mean_probabilities", ResponseSpec(), scene)
    for color, tile in enumerate(tiles):
        placement = TILED.place(View(), image, tile)
        scores = np.zeros((1, 3, placement.tensor.height, placement.tensor.width), np.float32)
        scores[:, color] = 1
        merged.add(task.decode({"maps": scores}, 0, placement, scene), 1.0)
    green = merged.result().scores[1]
    np.testing.assert_array_equal(green, np.broadcast_to(green[0], green.shape))
    np.testing.assert_allclose(green[0, [0, 31, 48, 79]], [0, 0, 1, 1], atol=1e-3)
    np.testing.assert_allclose(green[0, 32:48], (1 - np.cos(np.pi * (np.arange(16) + 0.5) / 16)) / 2, atol=2e-3)
