"""Coordinates in other forms mean the same points: flat, or from -1 to 1 across the input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keypoints import (
    LABELS,
    PAIRS,
    PARTNER,
    images,
    outputs_of,
    points_in,
    prepared,
    scene_of,
    seeds,
    task,
    views,
)
from tta_server.errors import ConfigError
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

WIDE = Preprocessing(Size(40, 20), Resize.EXACT, normalization=Normalization(scale=1))
IMAGE = Size(80, 60)


def decode(keypoints, points, view="identity", prep=WIDE, image=IMAGE):
    """Points as the model gives them, (J, n) or flat."""
    placement = prep.place(read_view(view), image)
    return keypoints.decode({"points": np.asarray(points)[None]}, 0, placement, scene_of(prep, image))


# ---- flat ----


@prepared
@given(views, images, seeds, st.sampled_from([2, 3]))
def test_flat_outputs_are_the_same_points(prep, view, image, seed, numbers):
    placement, scene = prep.place(read_view(view[0]), image), scene_of(prep, image)
    rows = np.random.default_rng(seed).random((4, numbers)) * 40
    one = task(numbers=numbers).decode({"points": rows[None]}, 0, placement, scene)
    flat = task(shape=(None, 4 * numbers)).decode({"points": rows.reshape(1, -1)}, 0, placement, scene)
    np.testing.assert_array_equal(flat.xy, one.xy)
    np.testing.assert_array_equal(flat.confidence, one.confidence)


def test_flat_numbers_by_hand():
    """In an image of twice the input's width and thrice its height."""
    pose = decode(task(shape=(None, 8)), [1, 2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_allclose(pose.xy, [(2, 6), (6, 12), (10, 18), (14, 24)])
    np.testing.assert_array_equal(pose.confidence, 1)
    pose = decode(task(shape=(None, 12)), [1, 2, 0.1, 3, 4, 0.2, 5, 6, 0.3, 7, 8, 0.4])
    np.testing.assert_allclose(pose.xy, [(2, 6), (6, 12), (10, 18), (14, 24)])
    np.testing.assert_allclose(pose.confidence, [0.1, 0.2, 0.3, 0.4])


def test_an_output_whose_length_the_file_does_not_state_is_checked_by_its_run():
    keypoints = task(shape=(None, None))
    for count in (8, 12):
        keypoints.check({"points": np.zeros((1, count))}, Size(40, 20))
    with pytest.raises(
        ConfigError, match=r"the model gives \[1, 10\], which may be 5 points of x and y: state as many"
    ):
        keypoints.check({"points": np.zeros((1, 10))}, Size(40, 20))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((None, 10), "which may be 5 points of x and y: state as many labels"),
        ((None, 9), "which may be 3 points of x, y and confidence: state as many labels"),
        ((None, 6), "which may be 3 points of x and y, or 2 of x, y and confidence: state as many labels"),
        ((None, 6, 2), "which may be 6 points of x and y: state as many labels"),
        ((None, 6, 3), "which may be 6 points of x, y and confidence: state as many labels"),
    ],
)
def test_labels_that_are_too_few_or_many_are_refused_with_the_number_that_fits(shape, said):
    with pytest.raises(ConfigError, match=rf"\[N, 8\] or \[N, 12\]; the model gives \[any, .*\], {said}$"):
        Keypoints(LABELS, PointsOutput("coordinates", pairs=PAIRS), {"points": shape})


# ---- from -1 to 1 ----


@prepared
@given(views, images, seeds)
def test_signed_points_are_pixels_from_the_input_s_middle(prep, view, image, seed):
    placement, scene = prep.place(read_view(view[0]), image), scene_of(prep, image)
    points = points_in(placement.tensor, seed)
    pixels = task().decode(outputs_of(points), 0, placement, scene)
    signed = task(units="signed").decode(outputs_of(2 * points / placement.tensor - 1), 0, placement, scene)
    np.testing.assert_allclose(signed.xy, pixels.xy, atol=1e-6)


def test_minus_1_and_1_are_the_edges_of_the_input_by_hand():
    pose = decode(task(units="signed"), [(-1, -1), (1, 1), (0, 0), (0.5, -0.5)])
    np.testing.assert_allclose(pose.xy, [(0, 0), (80, 60), (40, 30), (60, 15)])


@given(seeds, st.sampled_from(["hflip", "vflip", {"rot90": 2}]))
def test_in_a_mirror_image_signed_points_change_their_sign(seed, view):
    points = np.random.default_rng(seed).uniform(-1, 1, (4, 2))
    plain = decode(task(units="signed"), points)
    signs = {"hflip": (-1, 1), "vflip": (1, -1)}.get(str(view), (-1, -1))
    seen = points * signs if isinstance(view, dict) else points[PARTNER] * signs
    np.testing.assert_allclose(decode(task(units="signed"), seen, view).xy, plain.xy, rtol=0, atol=1e-12)


@given(seeds)
def test_signed_points_may_come_y_first_and_flat(seed):
    points = np.random.default_rng(seed).uniform(-1, 1, (4, 2))
    flat = task(shape=(None, 8), units="signed", order="yx")
    np.testing.assert_array_equal(decode(flat, points[:, ::-1].ravel()).xy, decode(task(units="signed"), points).xy)


# ---- confidence ----


@pytest.mark.parametrize(("given_", "confidence"), [(-0.2, 0), (0.4, 0.4), (1.3, 1)])
def test_a_raw_third_number_is_clipped(given_, confidence):
    keypoints = task(labels=("tip",), pairs=None, numbers=3, scores="raw")
    np.testing.assert_allclose(decode(keypoints, [(3, 4, given_)]).confidence, [confidence])


@pytest.mark.parametrize("scores", ["raw", "logits", "probabilities"])
@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_a_third_number_that_is_none_is_unsound(scores, spoiled):
    keypoints = task(labels=("tip",), pairs=None, numbers=3, scores=scores)
    assert not keypoints.is_sound(decode(keypoints, [(3, 4, spoiled)]))
