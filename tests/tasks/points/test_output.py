import numpy as np
import pytest

from tests.support.keypoints import LABELS, PAIRS, task
from tta_server.errors import ConfigError
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.views.geometry import Size


@pytest.mark.parametrize("shape", [(None, 3, 2), (None, 4, 4), (None, 4, 1), (None, 4), (None, 10), (None, 4, 2, 1)])
def test_coordinates_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(
        ConfigError,
        match=r"4 labels needs an output points of shape \[N, 4, 2\], \[N, 4, 3\], \[N, 8\] or \[N, 12\]; the model",
    ):
        Keypoints(LABELS, PointsOutput("coordinates", pairs=PAIRS), {"points": shape})


@pytest.mark.parametrize("shape", [(None, 3, None, None), (None, 4, None), (None, 4, 2)])
def test_heat_maps_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"4 labels needs an output points of shape \[N, 4, h, w\]; the model gives"):
        Keypoints(LABELS, PointsOutput("heatmaps", pairs=PAIRS), {"points": shape})


@pytest.mark.parametrize(
    ("kind", "shape"), [("coordinates", (1, 4, 4)), ("coordinates", (1, 2, 2)), ("heatmaps", (1, 3, 8, 8))]
)
def test_a_run_that_gives_another_shape_is_refused(kind, shape):
    with pytest.raises(ConfigError, match="4 labels needs an output points of shape"):
        task(kind).check({"points": np.zeros(shape, np.float32)}, Size(32, 32))


@pytest.mark.parametrize(
    ("stride", "shape"), [(8, (8, 8)), (2, (8, 8)), (4, (4, 8)), (4, (8, 4)), (4, (7, 8)), (32, (8, 8)), (100, (8, 8))]
)
def test_a_stride_that_is_not_the_model_s_is_refused(stride, shape):
    with pytest.raises(ConfigError, match=rf"output.stride is {stride}, but the model gives .* a stride of"):
        task("heatmaps", stride=stride).check({"points": np.zeros((1, 4, *shape), np.float32)}, Size(32, 32))


def test_the_model_s_own_stride_and_one_left_out_pass():
    for stride in (4, None):
        task("heatmaps", stride=stride).check({"points": np.zeros((1, 4, 8, 16), np.float32)}, Size(64, 32))


@pytest.mark.parametrize(
    "labels", [("left_eye", "right_eye"), ("nose", "LeftEar"), ("eye right",), ("L_Eye", "R_Eye"), ("paw.r",)]
)
def test_labels_with_left_or_right_need_pairs(labels):
    with pytest.raises(ConfigError, match=r"output.pairs is missing: labels like .* change places in a mirror image"):
        task(labels=labels, pairs=None)
    task(labels=labels, pairs=())


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("left", "rihgt")], "names 'rihgt', which is none of the labels: nose, left, right, tail"),
        ([("left", "right"), ("left", "tail")], "names 'left' twice"),
        ([("left", "right"), ("right", "left")], "names 'left' twice"),
        ([("nose", "nose")], "names 'nose' twice"),
    ],
)
def test_impossible_pairs_are_refused(pairs, sentence):
    with pytest.raises(ConfigError, match=f"output.pairs {sentence}"):
        task(pairs=pairs)


def test_coordinates_have_no_merge_of_heat_maps():
    assert task().merges == ("mean_coordinates",)
    assert task("heatmaps").merges == ("mean_heatmaps", "mean_coordinates")


def test_a_run_s_values_are_not_checked():
    """They are what findings are about."""
    task(units="normalized").check({"points": np.full((1, 4, 2), 30, np.float32)}, Size(32, 32))
    task("heatmaps").check({"points": np.full((1, 4, 8, 8), -3, np.float32)}, Size(32, 32))


@pytest.mark.parametrize(
    ("kind", "key", "value", "others"),
    [
        ("heatmaps", "units", "normalized", "coordinates"),
        ("heatmaps", "order", "yx", "coordinates"),
        ("heatmaps", "split", 1, "simcc"),
        ("coordinates", "stride", 4, "heatmaps"),
        ("coordinates", "offset", 0.25, "heatmaps"),
        ("coordinates", "layout", "NHWC", "heatmaps"),
        ("coordinates", "x", "across", "simcc"),
        ("simcc", "name", "points", "heatmaps and coordinates"),
        ("simcc", "scores", "logits", "heatmaps and coordinates"),
        ("simcc", "stride", 4, "heatmaps"),
        ("simcc", "units", "signed", "coordinates"),
    ],
)
def test_keys_of_other_kinds_are_refused(kind, key, value, others):
    with pytest.raises(ValueError, match=f"{key} is for {others}; leave it out for {kind}"):
        PointsOutput(kind, **{key: value})


@pytest.mark.parametrize("split", [0, -1, 0.5])
def test_a_split_under_1_is_refused(split):
    with pytest.raises(ValueError, match="split takes a number of bins a pixel of 1 or more, not"):
        PointsOutput("simcc", split=split)


@pytest.mark.parametrize("shape", [(None, 3, 8, 8), (None, None, None, 3), (None, None, None)])
def test_heat_maps_whose_points_are_not_last_are_refused(shape):
    with pytest.raises(ConfigError, match=r"an output points of shape \[N, h, w, 4\]; the model gives"):
        task("heatmaps", layout="NHWC", shape=shape)


@pytest.mark.parametrize("form", [{"offset": -0.1}, {"offset": 1.5}, {"visible": -1}, {"visible": 2}])
def test_numbers_out_of_range_are_refused(form):
    with pytest.raises(ValueError, match=f"{next(iter(form))} takes a .* from 0 to 1, not"):
        PointsOutput("heatmaps", **form)


@pytest.mark.parametrize(
    ("layout", "shape", "fitting"), [("NHWC", (None, 4, 8, 9), "NCHW"), ("NCHW", (None, 8, 9, 4), "NHWC")]
)
def test_the_other_layout_is_named_where_it_fits(layout, shape, fitting):
    with pytest.raises(
        ConfigError,
        match=rf"^output.layout is {layout}, but the model gives points of shape .*; set output.layout: {fitting}$",
    ):
        task("heatmaps", layout=layout, shape=shape)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_shape_that_fits_both_layouts_is_the_stated_one(layout):
    task("heatmaps", layout=layout, shape=(None, 4, 4, 4))
    task("heatmaps", layout=layout, shape=(None, None, None, None))
