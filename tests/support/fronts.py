"""Kinds of preprocessing, images and views with each border, for tests of what makes a model's input on a device."""

from dataclasses import replace

import pytest

from tests.support.patterns import noise, smooth
from tests.support.preparations import EXACT_VIEWS, MEAN, SAMPLED_VIEWS, STD
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import Border

IMAGENET = Normalization(255.0, MEAN, STD)
RESIZES = {
    "crop": Preprocessing(Size(48, 40), Resize.SHORT, 56, normalization=IMAGENET),
    "exact": Preprocessing(Size(37, 44), Resize.EXACT, normalization=IMAGENET),
    "letterbox": Preprocessing(Size(60, 60), Resize.LETTERBOX, normalization=IMAGENET),
    "top left": Preprocessing(
        Size(60, 60),
        Resize.LETTERBOX,
        letterbox_anchor=Anchor.TOP_LEFT,
        letterbox_fill="zeros",
        normalization=IMAGENET,
    ),
    "multiple": Preprocessing(multiple=16, normalization=IMAGENET),
    "short multiple": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=IMAGENET),
    "zeros": Preprocessing(None, Resize.LONG, 53, multiple=32, pad=Pad.ZEROS, normalization=IMAGENET),
}
COLORS = [
    {"brightness": 1.4},
    [{"contrast": 0.7}, "hflip"],
    {"saturation": 1.6},
    [{"hue": 25}, {"rotate": 12}],
    "grayscale",
    [{"brightness": 1.2}, {"shift": [2.5, 1]}],
]
IMAGES = [noise(Size(83, 71)), smooth(Size(71, 90))]
resized = pytest.mark.parametrize("prep", RESIZES.values(), ids=RESIZES)


def views_of(specs):
    """Each view with each border."""
    return [replace(read_view(spec), border=border) for spec in specs for border in Border]


ALL = views_of([*EXACT_VIEWS, *SAMPLED_VIEWS, *COLORS])
