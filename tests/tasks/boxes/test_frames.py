from math import hypot, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.boxes import (
    FULL_VIEWS,
    PARTIAL_VIEWS,
    PREPARATIONS,
    RAW,
    TURNED_VIEWS,
    by_corners,
    by_ellipses,
    images,
    inside,
    moderate,
    parts,
    scene_of,
    spread_out,
    to_input,
)
from tests.support.examples import times
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks.boxes.frames import CORNERS, Visibility, are_cut, clip_boxes, to_plain
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

FREE = Preprocessing(normalization=RAW)
half = settings(max_examples=times(50))
"""For laws of four preparations or merges."""
prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
free = pytest.mark.parametrize("prep", [PREPARATIONS["free"], PREPARATIONS["free short"]], ids=["free", "free short"])
upright_views = st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS])
turned_views = st.sampled_from(TURNED_VIEWS)
any_views = st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS, *TURNED_VIEWS])


def placed(spec, image, prep=FREE):
    return prep.place(read_view(spec), image)


def box(*corners):
    return np.array([corners], np.float64)


# ---- undo is the inverse ----


@prepared
@half
@given(upright_views, images, parts)
def test_a_box_comes_back_from_flips_turns_zooms_and_shifts(prep, spec, image, parts):
    placement = placed(spec, image, prep)
    boxes = spread_out(parts, placement.whole)
    np.testing.assert_allclose(to_plain(by_corners(boxes, to_input(placement)), placement), boxes, atol=1e-9)


@prepared
@half
@given(turned_views, images, parts)
def test_an_ellipse_s_box_comes_back_from_rotations(prep, spec, image, parts):
    placement = placed(spec, image, prep)
    boxes = moderate(spread_out(parts, placement.whole))
    np.testing.assert_allclose(to_plain(by_ellipses(boxes, to_input(placement)), placement), boxes, atol=1e-6)


@given(st.floats(-360, 360), images, parts)
def test_at_any_angle_the_middle_comes_back_and_sides_stay_bounded(angle, image, parts):
    placement = placed({"rotate": angle}, image)
    boxes = spread_out(parts, image)
    seen = by_ellipses(boxes, to_input(placement))
    found = to_plain(seen, placement)
    np.testing.assert_allclose((found[:, :2] + found[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2, atol=1e-9)
    sides, whole = found[:, 2:] - found[:, :2], boxes[:, 2:] - boxes[:, :2]
    assert (sides > 0).all()
    assert (np.hypot(*sides.T) <= 1.01 * np.hypot(*whole.T)).all()


@given(any_views, images, parts)
def test_a_box_turned_inside_out_has_no_sides(spec, image, parts):
    placement = placed(spec, image)
    left, top, right, bottom = by_corners(spread_out(parts, placement.whole), to_input(placement)).T
    found = to_plain(np.stack([right, bottom, left, top], axis=1), placement)
    np.testing.assert_allclose(found[:, 2:], found[:, :2])


@pytest.mark.parametrize(
    ("spec", "seen", "plain"),
    [
        ("hflip", (10, 5, 30, 15), (30, 5, 50, 15)),
        ("vflip", (10, 5, 30, 15), (10, 25, 30, 35)),
        ({"rot90": 1}, (5, 10, 15, 30), (30, 5, 50, 15)),
        ("transpose", (5, 10, 15, 30), (10, 5, 30, 15)),
        ({"shift": [8, -4]}, (18, 1, 38, 11), (10, 5, 30, 15)),
        ({"zoom": 2}, (0, 0, 60, 40), (15, 10, 45, 30)),
        ({"scale": 2}, (20, 10, 60, 30), (10, 5, 30, 15)),
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, (20, 10, 60, 30), (10, 5, 30, 15)),
    ],
)
def test_where_boxes_of_a_view_of_60_by_40_pixels_lie(spec, seen, plain):
    np.testing.assert_allclose(to_plain(box(*seen), placed(spec, Size(60, 40))), box(*plain), atol=1e-9)


def test_a_box_turned_by_30_degrees_by_hand():
    """A disc stays a disc; half axes 8 and 4 fill half sides sqrt(64 3/4 + 16 1/4) and sqrt(64 1/4 + 16 3/4)."""
    placement = placed({"rotate": 30}, Size(60, 40))
    np.testing.assert_allclose(to_plain(box(25, 15, 35, 25), placement), box(25, 15, 35, 25), atol=1e-9)
    a, b = sqrt(52), sqrt(28)
    found = to_plain(box(30 - a, 20 - b, 30 + a, 20 + b), placement)
    np.testing.assert_allclose(found, box(22, 16, 38, 24), atol=1e-9)


def test_a_box_turned_by_45_degrees_comes_back_square():
    side = hypot(16, 8) / sqrt(2)
    placement = placed({"rotate": 45}, Size(60, 40))
    found = to_plain(box(30 - side / 2, 20 - side / 2, 30 + side / 2, 20 + side / 2), placement)
    np.testing.assert_allclose(found[0, 2:] - found[0, :2], [side, side], atol=1e-9)


def test_a_box_that_no_ellipse_fills_comes_back_thin():
    """The solution for the squares of 40 and 2 is 3/2 1600 - 1/2 4 and 3/2 4 - 1/2 1600, which is negative."""
    found = to_plain(box(10, 19, 50, 21), placed({"rotate": 30}, Size(60, 40)))
    np.testing.assert_allclose(found[0, 2:] - found[0, :2], [sqrt(2398), 2 / 8], atol=1e-9)


# ---- boxes that a view cuts ----


@prepared
@half
@given(any_views, images, parts)
def test_a_box_well_inside_a_view_is_not_cut(prep, spec, image, parts):
    placement = placed(spec, image, prep)
    seen = by_corners(spread_out(parts, placement.whole), to_input(placement))
    assert not are_cut(seen[inside(seen, placement) > 2.001], placement).any()


@prepared
@half
@given(st.sampled_from(PARTIAL_VIEWS), images, parts)
def test_a_box_that_reaches_beyond_a_view_into_the_image_is_cut(prep, spec, image, parts):
    """As a model gives it, which gets only what is inside."""
    placement = placed(spec, image, prep)
    seen = by_corners(spread_out(parts, placement.whole), to_input(placement))
    (x, y), (width, height) = placement.inset, placement.frame
    shown = np.clip(seen, [x, y, x, y], [x + width, y + height, x + width, y + height])
    enlarged = sqrt(abs(placement.to_plain.inverse().determinant))
    some = ((shown[:, 2:] - shown[:, :2]) > 4 * max(enlarged, 1)).all(axis=1)
    assert are_cut(shown[some & (inside(seen, placement) < -2 - 2 * enlarged)], placement).all()


@prepared
@half
@given(st.sampled_from(FULL_VIEWS[:8]), images, parts)
def test_the_image_s_own_edge_cuts_nothing(prep, spec, image, parts):
    """Not even boxes that reach beyond it, as models give them."""
    placement = placed(spec, image, prep)
    left, top, right, bottom = by_corners(spread_out(parts, placement.whole), to_input(placement)).T
    for grown in (0, 1, 30):
        assert not are_cut(
            np.stack([left - grown, top - grown, right + grown, bottom + grown], axis=1), placement
        ).any()


@pytest.mark.parametrize(
    ("seen", "cut"),
    [
        ((10, 10, 58, 30), True),
        ((10, 10, 57, 30), False),
        ((10, 10, 30, 38.5), True),
        ((10, 10, 30, 37.5), False),
        ((0, 0, 30, 30), False),
        ((-3, -3, 30, 30), False),
        ((-3, -3, 70, 70), True),
    ],
)
def test_a_crop_of_the_top_left_cuts_at_its_right_and_bottom_only(seen, cut):
    placement = placed({"crop": {"fraction": 0.5, "anchor": "top_left"}}, Size(60, 40))
    assert are_cut(box(*seen), placement).tolist() == [cut]


def test_a_view_does_not_show_bars():
    """80x40 pixels stand in rows 16 to 48 of 64x64: a box at row 16 of a crop's middle is cut, at row 0 too."""
    prep = PREPARATIONS["letterbox"]
    boxes = np.concatenate([box(20, 16, 40, 30), box(20, 0, 40, 30), box(20, 20, 40, 30)])
    assert are_cut(boxes, placed({"crop": 0.5}, Size(80, 40), prep)).tolist() == [True, True, False]
    assert not are_cut(boxes, placed("identity", Size(80, 40), prep)).any()


# ---- what a view shows ----


def shown_by(prep, spec, image, boxes):
    """Which boxes of the plain view's frame, given in the image's pixels, a view shows; and where they lie in it."""
    scene, placement = scene_of(prep, image), placed(spec, image, prep)
    on_image = by_corners(boxes, scene.to_image)
    return Visibility(placement, scene).shows(on_image), by_corners(boxes, to_input(placement)), placement


@prepared
@half
@given(any_views, images, parts)
def test_a_view_shows_boxes_inside_it_and_none_that_leave_it(prep, spec, image, parts):
    boxes = spread_out(parts, prep.place(read_view("identity"), image).whole)
    shows, seen, placement = shown_by(prep, spec, image, boxes)
    assert shows[inside(seen, placement) > 3.001].all()
    assert not shows[inside(seen, placement) < -1.001].any()


@prepared
@half
@given(st.sampled_from(FULL_VIEWS[:8]), images, parts)
def test_flips_and_turns_show_every_box(prep, spec, image, parts):
    boxes = spread_out(parts, prep.place(read_view("identity"), image).whole)
    assert shown_by(prep, spec, image, boxes)[0].all()


@free
@half
@given(st.sampled_from(FULL_VIEWS), images, parts)
def test_without_a_fixed_size_other_scales_show_every_box(prep, spec, image, parts):
    boxes = spread_out(parts, prep.place(read_view("identity"), image).whole)
    assert shown_by(prep, spec, image, boxes)[0].all()


@prepared
@given(st.sampled_from(PARTIAL_VIEWS), images, parts)
def test_a_view_that_drops_a_box_as_cut_does_not_show_it(prep, spec, image, parts):
    """Else it would be a view that shows the box and does not find it, and lower its score."""
    boxes = spread_out(parts, prep.place(read_view("identity"), image).whole)
    shows, seen, placement = shown_by(prep, spec, image, boxes)
    assert not shows[are_cut(seen, placement)].any()


@pytest.mark.parametrize("spare", [0, 1, 1.9])
def test_a_box_within_two_pixels_of_a_shifted_view_s_edge_is_not_shown(spare):
    """A shift by 8 pixels to the left shows what lies from 8 on; a box from 8 to 10 on counts as cut there."""
    shows, _, _ = shown_by(FREE, {"shift": [-8, 0]}, Size(60, 40), box(8 + spare, 10, 30, 30))
    assert not shows.any()


@pytest.mark.parametrize(
    ("spec", "on_image", "shows"),
    [
        ("identity", (0, 0, 60, 40), True),
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, (5, 5, 25, 15), True),
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, (0, 0, 25, 15), True),
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, (5, 5, 35, 15), False),
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, (40, 25, 50, 35), False),
        ({"rotate": 30}, (25, 15, 35, 25), True),
        ({"rotate": 30}, (0, 0, 10, 10), False),
    ],
)
def test_which_boxes_of_60_by_40_pixels_a_view_shows(spec, on_image, shows):
    assert shown_by(FREE, spec, Size(60, 40), box(*on_image))[0].tolist() == [shows]


def test_a_view_shows_boxes_of_the_image_s_own_pixels():
    prep = Preprocessing(Size(30, 30), Resize.EXACT, normalization=RAW)
    visibility = Visibility(
        placed({"crop": {"fraction": 0.5, "anchor": "top_left"}}, Size(600, 300), prep),
        scene_of(prep, Size(600, 300)),
    )
    assert visibility.shows(np.array([[30, 30, 200, 100], [30, 30, 350, 100]], np.float64)).tolist() == [True, False]


# ---- clipping and formats ----


@given(parts, st.floats(-50, 50))
def test_clipped_boxes_lie_in_the_image(parts, by):
    boxes = spread_out(parts, (60, 40)) + by
    found = clip_boxes(boxes, Size(60, 40))
    assert (found >= 0).all()
    assert (found <= [60, 40, 60, 40]).all()
    np.testing.assert_array_equal(clip_boxes(found, Size(60, 40)), found)
    np.testing.assert_array_equal(clip_boxes(spread_out(parts, (60, 40)), Size(60, 40)), spread_out(parts, (60, 40)))


def test_clipping_by_hand():
    boxes = np.array([[-3, 5, 70, 20], [10, -9, 20, 50], [61, 41, 80, 80]], np.float64)
    assert clip_boxes(boxes, Size(60, 40)).tolist() == [[0, 5, 60, 20], [10, 0, 20, 40], [60, 40, 60, 40]]


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("xyxy", (10, 20, 40, 60)),
        ("yxyx", (20, 10, 60, 40)),
        ("xywh", (10, 20, 30, 40)),
        ("cxcywh", (25, 40, 30, 40)),
    ],
)
def test_every_format_of_the_same_box(form, written):
    assert CORNERS[form](box(*written)).tolist() == [[10, 20, 40, 60]]


def test_every_format_has_its_example():
    assert set(CORNERS) == {"xyxy", "yxyx", "xywh", "cxcywh"}
