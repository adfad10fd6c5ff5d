"""Images of contracts, none of them square or its own mirror image, and what is in them."""

import numpy as np

from tests.contracts.expected import Boxes

LABELS = ("red", "green", "blue")

OBJECTS = np.zeros((32, 40, 3), np.uint8)
"""Three rectangles: a letterbox or a squash into 96x64 or 64x64 puts their edges on edges of pixels."""
OBJECTS[4:12, 5:20, 0] = 204
OBJECTS[6:20, 25:35, 1] = 230
OBJECTS[16:28, 10:20, 2] = 255
FOUND = Boxes(
    (
        ("red", 204 / 255, (5, 4, 20, 12)),
        ("green", 230 / 255, (25, 6, 35, 20)),
        ("blue", 1.0, (10, 16, 20, 28)),
    )
)

A, B = np.array([200, 60, 90]), np.array([60, 190, 110])
"""Far enough from 0 and 255 that no bicubic resize is clipped, which keeps the mean."""
STRIPES = np.zeros((40, 60, 3), np.uint8)
"""A third of one colour on the left, two thirds of another: what a crop leaves out shows in the mean."""
STRIPES[:, :20], STRIPES[:, 20:] = A, B

REGIONS = np.zeros((32, 48, 3), np.uint8)
"""Red on the left, green above blue on the right; borders lie at multiples of two pixels."""
REGIONS[:, :12, 0] = REGIONS[:10, 12:, 1] = REGIONS[10:, 12:, 2] = 255
CLASSES = REGIONS.argmax(axis=2)

DOTS = np.zeros((32, 48, 3), np.uint8)
"""A square of four pixels of each colour."""
DOTS[4:8, 8:12, 0] = DOTS[12:16, 36:40, 1] = DOTS[24:28, 20:24, 2] = 255
MIDDLES = ((10.0, 6.0), (38.0, 14.0), (22.0, 26.0))


def mean_of_stripes(share: float) -> np.ndarray:
    """The mean colour, from 0 to 1, of a part of STRIPES of which this share has the colour on the left."""
    return (share * A + (1 - share) * B) / 255
