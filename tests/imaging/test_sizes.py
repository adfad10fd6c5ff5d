"""Sizes of resized images equal those of the libraries that models are trained with."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tta_server.imaging.sizes import SHORT_SIDES, long_side, scaled, short_side
from tta_server.views.geometry import Size

sides = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Size(1920, 1080), Size(1333, 749)),  # floor(800 * 16 / 9) = 1422, floor(1333 * 800 / 1422) = 749
        (Size(1080, 1920), Size(749, 1333)),
        (Size(1280, 720), Size(1333, 749)),
        (Size(3840, 2160), Size(1333, 749)),
        (Size(640, 480), Size(1066, 800)),  # floor(800 * 4 / 3) = 1066, under the limit
        (Size(480, 640), Size(800, 1066)),
        (Size(1333, 800), Size(1333, 800)),  # exactly at the limit
        (Size(1334, 800), Size(1333, 799)),  # one pixel over
        (Size(1000, 600), Size(1333, 800)),  # floor(1333.3) is not over
        (Size(2048, 1228), Size(1333, 799)),
        (Size(601, 361), Size(1331, 800)),
        (Size(800, 800), Size(800, 800)),
        (Size(4000, 100), Size(1333, 33)),
        (Size(60_000, 1), Size(1333, 1)),  # floor gives 0, which torchvision refuses
    ],
)
def test_a_short_side_of_800_and_at_most_1333(image, expected):
    """Expected: `_compute_resized_output_size((h, w), [800], 1333)` of torchvision 0.29."""
    assert short_side(image, 800, 1333) == expected


@given(sides, sides, st.integers(1, 1200), st.integers(1, 1200))
def test_the_limit_applies_only_if_the_long_side_exceeds_it(width, height, length, more):
    image, longest = Size(width, height), length + more
    limited, free = short_side(image, length, longest), short_side(image, length)
    assert max(limited) <= longest
    assert min(free) == length
    assert (limited == free) == (max(free) <= longest)
    assert short_side(image.swapped, length, longest) == limited.swapped


def test_scaling_rounds_and_keeps_a_pixel():
    assert scaled(Size(3, 1), 0.5) == Size(2, 1)
    assert scaled(Size(10, 7), 1.25) == Size(12, 9)


@pytest.mark.parametrize(
    ("image", "torchvision", "transformers", "detectron2", "mmdetection"),
    [
        # 1333 * 1080 / 1920 = 749.8: floored, or rounded; 749.8 * 1920 / 1080 = 1333
        (Size(1920, 1080), Size(1333, 749), Size(1333, 750), Size(1333, 750), Size(1333, 750)),
        (Size(480, 640), Size(800, 1066), Size(800, 1066), Size(800, 1067), Size(800, 1067)),  # 1066.7
        (Size(800, 1333), Size(800, 1333), Size(800, 1333), Size(800, 1333), Size(800, 1333)),
        (Size(1334, 800), Size(1333, 799), Size(1333, 799), Size(1333, 799), Size(1333, 799)),  # 799.4
        (Size(1000, 600), Size(1333, 800), Size(1333, 800), Size(1333, 800), Size(1333, 800)),  # 1333.3, 799.8
        (Size(500, 500), Size(800, 800), Size(800, 800), Size(800, 800), Size(800, 800)),
        # 0.65 rounds to the image's own 1, and then transformers leaves the image as it is
        (Size(2048, 1), Size(1333, 1), Size(2048, 1), Size(1333, 1), Size(1333, 1)),
    ],
)
def test_libraries_round_differently(image, torchvision, transformers, detectron2, mmdetection):
    found = [short_side(image, 800, 1333, like) for like in SHORT_SIDES]
    assert found == [torchvision, transformers, detectron2, mmdetection]


@pytest.mark.parametrize("like", SHORT_SIDES)
@given(sides, sides, st.integers(1, 1200), st.integers(1, 1200))
def test_every_library_is_within_a_pixel_of_the_exact_size(like, width, height, length, more):
    image, longest = Size(width, height), length + more
    found = short_side(image, length, longest, like)
    assume(like != "transformers" or found != image)  # leaves an image of the right short side as it is
    factor = min(length / min(image), longest / max(image))
    assert short_side(image.swapped, length, longest, like) == found.swapped
    slack = 1 + 1e-6 if factor * min(image) >= 1 else image.width + image.height  # at least one pixel
    assert abs(found.width - width * factor) <= slack
    assert abs(found.height - height * factor) <= slack


@given(sides, sides, st.integers(10, 1200), st.integers(1, 1200))
def test_transformers_is_transformers(width, height, length, more):
    """Development only: skipped without the library."""
    transforms = pytest.importorskip("transformers.image_transforms")
    expected = transforms.get_size_with_aspect_ratio((height, width), length, length + more)
    found = short_side(Size(width, height), length, length + more, "transformers")
    assert (found.height, found.width) == tuple(max(1, side) for side in expected)


@pytest.mark.parametrize(
    ("image", "rounding", "expected"),
    [
        (Size(2048, 1001), "half_up", Size(1024, 501)),  # 500.5
        (Size(2048, 1001), "round", Size(1024, 500)),
        (Size(1001, 2048), "floor", Size(500, 1024)),
        (Size(300, 200), "round", Size(1024, 683)),  # 682.7
        (Size(300, 200), "floor", Size(1024, 682)),
        (Size(5000, 1), "floor", Size(1024, 1)),
    ],
)
def test_a_long_side_of_1024(image, rounding, expected):
    assert long_side(image, 1024, rounding) == expected


@pytest.mark.parametrize(
    ("rounding", "expected"), [("round", Size(2, 4)), ("half_up", Size(3, 4)), ("floor", Size(2, 3))]
)
def test_roundings_of_proportions(rounding, expected):
    assert scaled(Size(5, 7), 0.5, rounding) == expected
