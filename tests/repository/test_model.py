"""Policies are checked against the model."""

import pytest

from tests.support.configs import CLASSIFICATION, SEGMENTATION, changed
from tests.support.onnx_models import classifier, segmenter
from tta_server.errors import InvalidInput
from tta_server.views.geometry import Size
from tta_server.views.presets import read_policy
from tta_server.views.view import View


@pytest.mark.parametrize(
    ("base", "entry", "shape", "fits"),
    [
        (SEGMENTATION, {}, ("n", 3, "h", "w"), True),
        (CLASSIFICATION, {"size": [8, 8]}, ("n", 3, 8, 8), True),
        (CLASSIFICATION, {"size": [8, 12], "resize": 12}, ("n", 3, 8, 12), False),
        (CLASSIFICATION, {"size": [8, 12], "resize": 12}, ("n", 3, "h", "w"), True),
        (CLASSIFICATION, {"size": [8, 12], "resize": "letterbox"}, ("n", 3, "h", "w"), False),
        (CLASSIFICATION, {"size": [8, 12], "resize": "exact"}, ("n", 3, 8, "w"), False),
    ],
)
def test_views_that_swap_sides_are_refused_if_the_input_cannot_swap(load, base, entry, shape, fits):
    config = changed(base, input=entry, policy="plain", symmetries=["rot90"])
    file = segmenter(shape) if base is SEGMENTATION else classifier(shape)
    model = load(config, file)
    turned = read_policy(["identity", {"name": "turned", "rot90": 1}], model.preprocessing.crops)
    if fits:
        model.check_views(turned)
    else:
        with pytest.raises(
            InvalidInput, match="view 'turned' swaps width and height, which does not fit this model's input of 12x8"
        ):
            model.check_views(turned)


def test_views_that_fit_pass(load):
    model = load(CLASSIFICATION)
    views = ["identity", {"scale": 0.8}, {"shift": [3.9, 0]}, {"hflip": True, "weight": [1, 0, 2]}]
    model.check_views(read_policy(views, model.preprocessing.crops))


def test_the_smallest_scale_still_fills_the_window(load):
    model = load(CLASSIFICATION)  # a window of 8 on a short side of 10
    canvas = model.preprocessing.place(View(scale=0.8), Size(30, 20)).canvas
    assert min(canvas) == 8
    with pytest.raises(InvalidInput, match=r"view 'scale 0.79' has a scale of 0.79; .* at least 0.8"):
        model.check_views(read_policy(["identity", {"scale": 0.79}], True))


def test_the_smallest_scale_of_a_crop_from_a_squashed_image_still_fills_the_window(load):
    model = load(changed(CLASSIFICATION, input={"resize": None, "crop_from": [10, 16]}))
    assert model.preprocessing.place(View(scale=0.8), Size(30, 20)).canvas == Size(13, 8)
    model.check_views(read_policy(["identity", {"scale": 0.8}], True))
    with pytest.raises(InvalidInput, match=r"view 'scale 0.79' has a scale of 0.79; .* at least 0.8"):
        model.check_views(read_policy(["identity", {"scale": 0.79}], True))
