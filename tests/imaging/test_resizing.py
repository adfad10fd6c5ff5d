"""Images are resized as the named library resizes them."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.examples import times
from tests.support.patterns import noise
from tta_server.imaging import torch_resizing
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.imaging.resizing import INTERPOLATIONS, resize
from tta_server.views.geometry import Size

OPENCV = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
}
EVERY = [(like, name) for like, names in INTERPOLATIONS.items() for name in names]
sizes = st.builds(Size, st.integers(1, 200), st.integers(1, 200))


def resized(pixels, size, like, interpolation="bilinear"):
    return np.asarray(resize(pixels, size, like, interpolation))


@pytest.mark.parametrize("interpolation", OPENCV)
@settings(max_examples=times(200))
@given(sizes, sizes)
def test_opencv_is_opencv(interpolation, image, size):
    prep = Preprocessing(size, Resize.EXACT, resize_like="opencv", interpolation=interpolation)
    pixels = noise(image)
    expected = pixels if image == size else cv2.resize(pixels, size, interpolation=OPENCV[interpolation])
    np.testing.assert_array_equal(prep.canvas(pixels, 1.0).planes.transpose(1, 2, 0), expected)


ROW = np.array([[0, 100, 200, 60, 20, 40, 240, 80]], np.uint8)


@pytest.mark.parametrize(
    ("like", "interpolation", "width", "expected"),
    [
        ("torch", "bilinear", 2, [150, 140]),  # centres at 1.5 and 5.5: means of two neighbours, the rest is skipped
        ("opencv", "bilinear", 2, [150, 140]),
        ("opencv", "area", 2, [90, 95]),
        ("torch", "nearest", 2, [0, 20]),
        ("torch", "nearest", 3, [0, 200, 40]),  # 0, 2.67, 5.33, floored
        ("torch", "bilinear", 4, [50, 130, 30, 160]),
        ("torch", "bilinear", 16, [0, 25, 75, 125, 175, 165, 95, 50, 30, 25, 35, 90, 190, 200, 120, 80]),
    ],
)
def test_rows_by_hand(like, interpolation, width, expected):
    assert resized(ROW, Size(width, 1), like, interpolation).tolist() == [expected]


def test_torchs_bicubic_by_hand():
    """At 1.5 the weights are -3/32, 19/32, 19/32, -3/32; at 5.5 the sum is 156.9."""
    assert resized(ROW, Size(2, 1), "torch", "bicubic").tolist() == [[172, 157]]


def exact_linear(pixels, size):
    """Bilinear values in float64, not rounded."""
    for axis, length in ((0, size.height), (1, size.width)):
        n = pixels.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * n / length - 0.5, 0, n - 1)
        first = np.floor(at).astype(int)
        part = (at - first).reshape([-1 if k == axis else 1 for k in range(pixels.ndim)])
        below, above = (np.take(pixels, np.minimum(first + k, n - 1), axis).astype(float) for k in (0, 1))
        pixels = below + part * (above - below)
    return pixels


@given(sizes, sizes)
def test_torchs_bilinear_is_the_bilinear_value_rounded(image, size):
    pixels = noise(image)
    off = np.abs(resized(pixels, size, "torch") - exact_linear(pixels, size))
    assert off.max() <= 0.5 + 1e-2


@pytest.mark.parametrize("interpolation", INTERPOLATIONS["torch"])
def test_blocks_of_rows_equal_the_whole(monkeypatch, interpolation):
    pixels = noise(Size(61, 83))
    whole = resized(pixels, Size(47, 90), "torch", interpolation)
    monkeypatch.setattr(torch_resizing, "BLOCK_VALUES", 500)
    np.testing.assert_array_equal(resized(pixels, Size(47, 90), "torch", interpolation), whole)


@pytest.mark.parametrize(("like", "interpolation"), EVERY)
def test_resizing_keeps_a_flat_image_and_one_of_its_own_size(like, interpolation):
    flat = np.full((37, 53, 3), 201, np.uint8)
    assert (resized(flat, Size(91, 20), like, interpolation) == 201).all()
    pixels = noise(Size(31, 17))
    np.testing.assert_array_equal(resized(pixels, Size(31, 17), like, interpolation), pixels)


@pytest.mark.parametrize(("like", "interpolation"), EVERY)
def test_grey_images_are_pillows_grey_resized(like, interpolation):
    prep = Preprocessing(
        Size(20, 24),
        Resize.EXACT,
        resize_like=like,
        interpolation=interpolation,
        channels=Channels.GREY,
        normalization=Normalization(),
    )
    pixels = noise(Size(64, 50))
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(prep.canvas(pixels, 1.0).planes[0], resized(grey, Size(20, 24), like, interpolation))


@pytest.mark.parametrize(("like", "interpolation"), EVERY)
@pytest.mark.parametrize("image", [Size(40_000, 1), Size(1, 40_000)])
def test_the_longest_images_can_be_resized(like, interpolation, image):
    assert resized(noise(image), Size(64, 32), like, interpolation).shape == (32, 64, 3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS["torch"])
def test_torch_is_torch(interpolation):
    """`torchvision.transforms.functional.resize` of a uint8 tensor without antialias: interpolate, clamp, round.

    How torch orders float32 sums depends on the CPU and the number of threads, so that a value that lies at a half
    may be rounded to either side.
    """
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    values = differing = 0
    for _ in range(200):
        height, width, *size = (int(side) for side in random.integers(1, 300, 4))
        pixels = noise(Size(width, height), seed=int(random.integers(1 << 30)))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        corners = {} if interpolation == "nearest" else {"align_corners": False, "antialias": False}
        floats = torch.nn.functional.interpolate(tensor, size, mode=interpolation, **corners)[0].permute(1, 2, 0)
        found = resized(pixels, Size(size[1], size[0]), "torch", interpolation)
        off = found != floats.clamp(0, 255).round().numpy()
        at_half = np.abs(floats.numpy()[off] % 1 - 0.5)
        assert not off.any() or at_half.max() < 1e-3
        values, differing = values + off.size, differing + int(off.sum())
    assert differing <= values * 1e-4
