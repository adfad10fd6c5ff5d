"""Sizes of resized images equal torchvision's Resize."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.imaging.sizes import scaled, short_side
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
