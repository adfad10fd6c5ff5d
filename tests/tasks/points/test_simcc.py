"""SimCC: the largest bin of each axis is the point, and views are undone exactly for where bins lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keypoints import (
    LABELS,
    PARTNER,
    RAW,
    images,
    merged,
    prepared,
    scene_of,
    seeds,
    task,
    to_tensor,
    views,
)
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ResponseSpec
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

EXACT = Preprocessing(Size(56, 44), Resize.EXACT, normalization=RAW)
SCENE = scene_of(EXACT, Size(56, 44))
SQUARE = Preprocessing(Size(40, 40), Resize.EXACT, normalization=RAW)
LOW = -50.0
"""Of a bin that no point can lie in."""
splits = st.sampled_from([1, 2, 3, 4])


def outputs_of(x, y):
    """A batch of one view from its bins (J, b)."""
    return {"simcc_x": np.float32(x)[None], "simcc_y": np.float32(y)[None]}


def bins(rng, side, split):
    """Scores (J, side x split) with no peak beyond the centre of the last pixel."""
    found = rng.normal(0.3, 0.3, (len(LABELS), side * split)).astype(np.float32)
    found[:, (side - 1) * split + 1 :] = LOW
    return found


def reflected(found, side, split):
    """The bins of a model that sees a mirror image: pixel u is pixel side - 1 - u there."""
    last = (side - 1) * split
    return np.concatenate([found[:, last::-1], np.full_like(found[:, last + 1 :], LOW)], axis=1)


def peaks_at(points, tensor, split, top=0.9):
    """Bins with the nearest one to each point (J, 2), in pixels of an input, at `top`."""
    made = []
    for at, side in zip(np.transpose(points), tensor, strict=True):
        found = np.zeros((len(points), round(side * split)), np.float32)
        nearest = np.rint((at - 0.5) * split).astype(int)
        found[np.arange(len(points)), nearest] = top
        made.append(found)
    return outputs_of(*made)


def decode(outputs, prep, image, view="identity", keypoints=None, **form):
    placement = prep.place(read_view(view), image)
    return (keypoints or task("simcc", **form)).decode(outputs, 0, placement, scene_of(prep, image))


# ---- where a bin lies ----


@pytest.mark.parametrize(("split", "expected"), [(1, 7.5), (2, 4.0), (3.5, 2.5)])
def test_a_bin_lies_at_the_centre_of_a_pixel_by_hand(split, expected):
    """Bin 7: 7 / split is the index of a pixel, whose centre is half a pixel further."""
    x = np.zeros((1, round(56 * split)))
    y = np.zeros((1, round(44 * split)))
    x[0, 7], y[0, 7] = 0.8, 0.6
    pose = decode(outputs_of(x, y), EXACT, Size(56, 44), labels=("tip",), pairs=None, split=split)
    np.testing.assert_allclose(pose.xy, [[expected, expected]], atol=1e-12)
    np.testing.assert_allclose(pose.confidence, [0.6], atol=1e-7)


@given(seeds, splits)
def test_points_and_scores_are_those_of_mmpose(seed, split):
    """Its places, argmax / split, are indices of pixels; its score is the smaller of the two largest."""
    rng = np.random.default_rng(seed)
    x, y = bins(rng, 56, split), bins(rng, 44, split)
    pose = decode(outputs_of(x, y), EXACT, Size(56, 44), split=split)
    places = np.stack([x.argmax(axis=1), y.argmax(axis=1)], axis=1) / split
    np.testing.assert_allclose(pose.xy, places + 0.5, atol=1e-12)
    np.testing.assert_array_equal(pose.confidence, np.clip(np.minimum(x.max(axis=1), y.max(axis=1)), 0, 1))


def test_the_first_of_equal_bins_is_the_point():
    x, y = np.zeros((1, 112)), np.zeros((1, 88))
    x[0, 20:24], y[0, 9:12] = 0.5, 0.5
    pose = decode(outputs_of(x, y), EXACT, Size(56, 44), labels=("tip",), pairs=None)
    np.testing.assert_array_equal(pose.xy, [[10.5, 5]])


@pytest.mark.parametrize(
    ("x", "y", "confidence"), [(0.9, 0.4, 0.4), (0.2, 0.9, 0.2), (3.0, 1.5, 1.0), (-0.1, 0.9, 0.0)]
)
def test_the_confidence_is_the_smaller_maximum_between_0_and_1(x, y, confidence):
    pose = decode(
        outputs_of(np.full((1, 112), x), np.full((1, 88), y)), EXACT, Size(56, 44), labels=("tip",), pairs=None
    )
    np.testing.assert_allclose(pose.confidence, [confidence], atol=1e-7)


# ---- undo is the inverse ----


@given(seeds, splits, st.sampled_from(["identity", "hflip", "vflip", {"rot90": 2}]))
def test_a_model_that_sees_a_mirror_image_gives_the_same_points(seed, split, view):
    """Left and right change names, and bins are reflected about the input's middle."""
    rng = np.random.default_rng(seed)
    x, y = bins(rng, 56, split), bins(rng, 44, split)
    plain = decode(outputs_of(x, y), EXACT, Size(56, 44), split=split)
    seen = x, y
    if view in ("hflip", {"rot90": 2}):
        seen = reflected(x, 56, split), seen[1]
    if view in ("vflip", {"rot90": 2}):
        seen = seen[0], reflected(y, 44, split)
    if view in ("hflip", "vflip"):
        seen = seen[0][PARTNER], seen[1][PARTNER]
    pose = decode(outputs_of(*seen), EXACT, Size(56, 44), view, split=split)
    np.testing.assert_allclose(pose.xy, plain.xy, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(pose.confidence, plain.confidence)


@given(seeds, splits)
def test_a_transposed_view_changes_the_axes(seed, split):
    rng = np.random.default_rng(seed)
    x, y = bins(rng, 40, split), bins(rng, 40, split)
    plain = decode(outputs_of(x, y), SQUARE, Size(40, 40), split=split)
    pose = decode(outputs_of(y[PARTNER], x[PARTNER]), SQUARE, Size(40, 40), "transpose", split=split)
    np.testing.assert_allclose(pose.xy, plain.xy, rtol=0, atol=1e-12)


@prepared
@given(views, images, splits, seeds)
def test_a_point_of_a_view_comes_back_within_half_a_bin(prep, view, image, split, seed):
    spec, mirrored = view
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    at = 0.5 + np.random.default_rng(seed).random((4, 2)) * (np.array(placement.tensor) - 1)
    pose = task("simcc", split=split).decode(peaks_at(at, placement.tensor, split), 0, placement, scene)
    found = to_tensor(placement, scene).apply(pose.xy)
    assert np.abs(found - (at[PARTNER] if mirrored else at)).max() <= 0.5 / split + 1e-6


def test_a_flip_and_the_plain_view_merge_into_their_mean_by_hand():
    """Plain at x 10.5, the flip at 56 - (44 + 0.5) = 11.5; both are as sure."""
    keypoints = task("simcc", labels=("tip",), pairs=None)
    poses = []
    for view, x in (("identity", 20), ("hflip", 88)):
        outputs = outputs_of(np.zeros((1, 112)), np.zeros((1, 88)))
        outputs["simcc_x"][0, 0, x] = outputs["simcc_y"][0, 0, 10] = 0.5
        poses.append(decode(outputs, EXACT, Size(56, 44), view, keypoints))
    answer = merged(poses, SCENE, keypoints=keypoints)
    np.testing.assert_allclose(answer.xy, [[11, 5.5]], atol=1e-12)
    np.testing.assert_allclose(answer.confidence, [0.5])
    np.testing.assert_allclose(answer.spread, [0.5])


def test_only_points_are_merged_and_nothing_is_summed():
    keypoints = task("simcc")
    assert keypoints.merges == ("mean_coordinates",)
    assert keypoints.sums("mean_coordinates", ResponseSpec()) is None
    assert keypoints.merged_bytes(SCENE.plain, ResponseSpec()) == 0


# ---- outputs ----


def test_both_outputs_are_read():
    assert task("simcc").reads == ("simcc_x", "simcc_y")


def test_outputs_may_have_other_names():
    shapes = {"points": (None, 4, None)}
    with pytest.raises(ConfigError, match=r"output\.x is 'simcc_x'; the model file has points"):
        Keypoints(LABELS, PointsOutput("simcc", pairs=()), shapes)
    form = PointsOutput("simcc", pairs=(), x="across", y="down")
    assert Keypoints(LABELS, form, {"down": (None, 4, 8), "across": (None, 4, 9)}).reads == ("across", "down")


def test_one_output_for_both_axes_is_refused():
    with pytest.raises(ConfigError, match=r"output\.x and output\.y are both simcc_y"):
        task("simcc", x="simcc_y")


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["simcc_x", "simcc_y"])
def test_a_view_with_nan_or_infinity_is_unsound(name, spoiled):
    outputs = outputs_of(np.zeros((4, 112)), np.zeros((4, 88)))
    assert task("simcc").is_sound(decode(outputs, EXACT, Size(56, 44)))
    outputs[name][0, 2, 5] = spoiled
    assert not task("simcc").is_sound(decode(outputs, EXACT, Size(56, 44)))


def test_bins_that_are_ruled_out_are_sound_unless_all_are():
    outputs = outputs_of(np.zeros((4, 112)), np.zeros((4, 88)))
    outputs["simcc_x"][0, :, 5:] = -np.inf
    assert task("simcc").is_sound(decode(outputs, EXACT, Size(56, 44)))
    outputs["simcc_x"][0, 1] = -np.inf
    assert not task("simcc").is_sound(decode(outputs, EXACT, Size(56, 44)))


def test_rows_of_a_batch_are_views_of_their_own_and_outlive_it():
    batch = {"simcc_x": np.zeros((2, 4, 112), np.float16), "simcc_y": np.zeros((2, 4, 88), np.float16)}
    batch["simcc_x"][1, :, 30] = batch["simcc_y"][1, :, 40] = 1
    pose = task("simcc").decode(batch, 1, SCENE.plain, SCENE)
    for found in batch.values():
        found[:] = 0
    np.testing.assert_array_equal(pose.xy, [[15.5, 20.5]] * 4)
    np.testing.assert_array_equal(pose.confidence, 1)


# ---- wrong declarations ----


@pytest.mark.parametrize("shape", [(None, 3, None), (None, 4), (None, 4, 8, 8)])
def test_bins_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"4 labels needs an output simcc_x of shape \[N, 4, bins\]; the model gives"):
        task("simcc", shape=shape)


def checked(bins_across, bins_down, tensor, **form):
    task("simcc", **form).check(
        {"simcc_x": np.zeros((1, 4, bins_across)), "simcc_y": np.zeros((1, 4, bins_down))}, tensor
    )


def test_bins_of_the_stated_split_pass():
    checked(384, 512, Size(192, 256))
    checked(192, 256, Size(192, 256), split=1)
    checked(288, 384, Size(192, 256), split=1.5)
    checked(86, 66, Size(57, 44), split=1.5)


@pytest.mark.parametrize(("across", "down", "split"), [(576, 768, "3"), (192, 256, "1"), (288, 384, "1.5")])
def test_another_split_is_refused_naming_the_one_that_fits(across, down, split):
    with pytest.raises(
        ConfigError,
        match=rf"output\.split is 2, but the model gives {across} bins across and {down} down for an input of "
        rf"192x256; set output\.split: {split}$",
    ):
        checked(across, down, Size(192, 256))


def test_axes_that_are_exchanged_are_named():
    with pytest.raises(ConfigError, match=r"; set output\.x: simcc_y and output\.y: simcc_x$"):
        checked(512, 384, Size(192, 256))


def test_bins_of_no_one_split_are_refused_with_both():
    with pytest.raises(ConfigError, match=r"a split of 2 across and 3 down, where one is needed for both"):
        checked(384, 768, Size(192, 256))
