"""Views are placed so that points follow pixels, and are undone to the plain view."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.patterns import blob, centroid
from tests.support.preparations import EXACT_VIEWS, SAMPLED_VIEWS, framed, images, prepared, shares, viewed, written
from tta_server.imaging.preprocessing import Canvas, Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.presets import preset
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View

# ---- points follow pixels ----


def on_black(spec):
    """Read a view with black beyond the canvas, so that no second blob is reflected into it."""
    return replace(read_view(spec), border=Border.CONSTANT)


def point_well_inside(placement, magnification, share, sigma):
    """Return a point of the frame at a blob's width from its edges, and its point on the canvas, (1, 2) each."""
    margin = 4.5 * sigma * magnification
    frame = np.array(placement.frame, float)
    assume((frame > 2 * margin).all())
    there = margin + np.array([share]) * (frame - 2 * margin)
    here = placement.to_canvas.apply(there)
    assume((here > 4.5 * sigma).all() and (here < np.array(placement.canvas) - 4.5 * sigma).all())
    return there, here


@prepared
@given(st.sampled_from(EXACT_VIEWS), images, st.tuples(shares, shares))
def test_points_follow_pixels_exactly_in_exact_views(prep, spec, image, share):
    view = on_black(spec)
    placement = prep.place(view, image)
    assert placement.exact
    assert_pixels_follow(prep, view, placement, share, 1e-3)


@prepared
@given(st.sampled_from(SAMPLED_VIEWS), images, st.tuples(shares, shares))
def test_points_follow_pixels_in_interpolated_views(prep, spec, image, share):
    view = on_black(spec)
    assert_pixels_follow(prep, view, prep.place(view, image), share, 0.05)


@prepared
@given(st.floats(-180, 180), st.floats(1, 1.3), images, st.tuples(shares, shares))
def test_points_follow_pixels_at_any_angle_and_zoom(prep, degrees, zoom, image, share):
    view = on_black([{"rotate": degrees}, {"zoom": zoom}])
    assert_pixels_follow(prep, view, prep.place(view, image), share, 0.05)


def assert_pixels_follow(prep, view, placement, share, tolerance):
    _, point = point_well_inside(placement, view.geometry.magnification, share, sigma=1.5)
    hill = blob(placement.canvas, point[0], sigma=1.5)
    tensor = written(prep, Canvas(np.stack([hill] * 3), prep), view, placement)
    expected = placement.to_canvas.inverse().apply(centroid(hill))
    np.testing.assert_allclose(centroid(framed(tensor, placement)[0]), expected, atol=tolerance)


@prepared
@given(st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]), images, st.tuples(shares, shares))
def test_undoing_a_view_moves_its_pixels_to_those_of_the_plain_view(prep, spec, image, share):
    view, plain_view = on_black(spec), View()
    placement, plain = prep.place(view, image), prep.place(plain_view, image)
    shrink = np.array(image) / placement.canvas
    _, on_canvas = point_well_inside(placement, view.geometry.magnification, share, sigma=2.2)
    on_plain = placement.to_plain.apply(placement.to_canvas.inverse().apply(on_canvas))
    assume((on_plain > 9).all() and (on_plain < np.array(plain.frame) - 9).all())
    hill = blob(image, (on_canvas * shrink)[0], sigma=2 * shrink.min())
    pixels = np.repeat(hill[:, :, None], 3, axis=2)
    there, here = (centroid(framed(viewed(prep, pixels, v)[0], prep.place(v, image))[0]) for v in (view, plain_view))
    np.testing.assert_allclose(placement.to_plain.apply(there), here, atol=0.15)


# ---- sizes ----


@pytest.mark.parametrize(
    ("prep", "image", "scale", "canvas", "tensor", "inset"),
    [
        (Preprocessing(Size(224, 224), Resize.SHORT, 256), Size(500, 375), 1, Size(341, 256), Size(224, 224), (0, 0)),
        (
            Preprocessing(Size(224, 224), Resize.SHORT, 256),
            Size(375, 500),
            1.25,
            Size(320, 426),
            Size(224, 224),
            (0, 0),
        ),
        (Preprocessing(Size(224, 192), Resize.EXACT), Size(50, 600), 1.25, Size(280, 240), Size(224, 192), (0, 0)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(200, 100), 1, Size(64, 32), Size(64, 64), (0, 16)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(100, 300), 1, Size(21, 64), Size(64, 64), (21, 0)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(200, 100), 0.5, Size(32, 16), Size(64, 64), (16, 24)),
        (Preprocessing(multiple=16), Size(33, 16), 1, Size(33, 16), Size(48, 16), (0, 0)),
        (Preprocessing(multiple=16), Size(33, 16), 1.5, Size(50, 24), Size(64, 32), (0, 0)),
    ],
)
def test_sizes_by_hand(prep, image, scale, canvas, tensor, inset):
    placement = prep.place(View(scale=scale), image)
    assert (placement.canvas, placement.tensor, placement.inset) == (canvas, tensor, inset)


@prepared
@given(st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]), images)
def test_a_tensor_contains_its_frame_and_only_rotated_views_swap_sides(prep, spec, image):
    view = read_view(spec)
    placement, straight = prep.place(view, image), prep.place(View(scale=view.scale, anchor=view.anchor), image)
    assert placement.inset[0] + placement.frame.width <= placement.tensor.width
    assert placement.inset[1] + placement.frame.height <= placement.tensor.height
    assert placement.frame == (straight.frame.swapped if view.geometry.swaps else straight.frame)


@prepared
def test_undoing_the_plain_view_is_the_identity(prep):
    points = np.array([(0.0, 0.0), (11.0, 7.5)])
    np.testing.assert_allclose(prep.place(View(), Size(91, 77)).to_plain.apply(points), points, atol=1e-9)


@pytest.mark.parametrize("name", ["five_crop", "ten_crop"])
def test_windows_of_a_model_of_any_size_have_the_plain_size_and_differ(name):
    prep, image = Preprocessing(multiple=16), Size(64, 48)
    placements = [prep.place(view, image) for view in preset(name, crops=False).views]
    assert {placement.frame for placement in placements} == {image}
    assert len({placement.to_plain for placement in placements}) == len(placements)
