"""Development only: preprocessing equals that of the libraries themselves, to the value; skipped without them."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.support.patterns import noise
from tests.support.preparations import MEAN, STD, viewed
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.view import View

IMAGENET = Normalization(255, MEAN, STD)


def ours(mode, size, whole, interpolation):
    """The preprocessing of docs/models.md for timm's `crop_mode`, and for sizes that are not square."""
    by = {"interpolation": interpolation, "normalization": IMAGENET}
    if mode == "squash":
        return Preprocessing(size, Resize.EXACT, crop_from=whole, **by)
    if whole.width == whole.height:
        return Preprocessing(size, Resize.SHORT, whole.width, **by)
    return Preprocessing(size, Resize.COVER, crop_from=whole, **by)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash", "not square"])
def test_crops_equal_timms(mode, interpolation):
    factory = pytest.importorskip("timm.data.transforms_factory")
    random = np.random.default_rng(5)
    for _ in range(200):
        width, height = (int(side) for side in random.integers(4, 400, 2))
        size = Size(*(int(side) for side in random.integers(16, 160, 2)))
        size = Size(size.width, size.width) if mode == "center" else size
        share = float(random.uniform(0.7, 1))
        pixels = noise(Size(width, height), seed=int(random.integers(1 << 30)))
        transform = factory.transforms_imagenet_eval(
            (size.height, size.width),
            crop_pct=share,
            crop_mode="squash" if mode == "squash" else "center",
            interpolation=interpolation,
            mean=MEAN,
            std=STD,
            use_prefetcher=False,
        )
        expected = transform(Image.fromarray(pixels)).numpy()
        whole = Size(math.floor(size.width / share), math.floor(size.height / share))
        found, _ = viewed(ours(mode, size, whole, interpolation), pixels, View())
        np.testing.assert_array_equal(found, expected)
