"""Kinds of preprocessing and views, and the model's input for a view, for tests that follow pixels."""

import pytest
from hypothesis import strategies as st

from tests.support.patterns import size_of
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size

RAW = Normalization(scale=1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PREPARATIONS = {
    "crop": Preprocessing(Size(48, 40), Resize.SHORT, 56, normalization=RAW),
    "exact": Preprocessing(Size(57, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(60, 60), Resize.LETTERBOX, normalization=RAW),
    "top left": Preprocessing(
        Size(60, 60),
        Resize.LETTERBOX,
        rounding="floor",
        letterbox_anchor=Anchor.TOP_LEFT,
        letterbox_fill=(10, 20, 30),
        normalization=RAW,
    ),
    "opencv": Preprocessing(Size(48, 40), Resize.SHORT, 56, resize_like="opencv", normalization=RAW),
    "torch": Preprocessing(Size(57, 44), Resize.EXACT, resize_like="torch", normalization=RAW),
    "squash, crop": Preprocessing(Size(48, 40), Resize.EXACT, crop_from=Size(56, 60), normalization=RAW),
    "cover": Preprocessing(Size(48, 34), Resize.COVER, crop_from=Size(54, 38), normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
    "free capped": Preprocessing(None, Resize.SHORT, 53, 64, "transformers", multiple=8, normalization=RAW),
    "free long": Preprocessing(None, Resize.LONG, 57, rounding="half_up", normalization=RAW),
    "zeros": Preprocessing(None, Resize.SHORT, 53, multiple=32, pad=Pad.ZEROS, normalization=RAW),
}

EXACT_VIEWS = [
    "identity",
    "hflip",
    "vflip",
    {"rot90": 1},
    {"rot90": 2},
    {"rot90": 3},
    "transpose",
    "antitranspose",
    {"shift": [5, -3]},
    {"shift": [-4, 0], "border": "constant"},
    {"window": "top_left"},
    {"window": "bottom_right"},
    {"scale": 1.25},
    {"scale": 1.25, "window": "top_right"},
    ["hflip", {"shift": [3, 2]}, {"rot90": 1}],
    [{"scale": 1.125}, {"window": "bottom_left"}, "transpose"],
]
SAMPLED_VIEWS = [
    {"rotate": 17},
    {"rotate": -33.5},
    {"rotate": 90.5, "border": "reflect"},
    {"zoom": 1.3},
    {"shift": [2.5, -1.25]},
    {"crop": 0.8},
    {"crop": {"fraction": 0.75, "anchor": "top_left"}},
    {"crop": {"fraction": 0.7, "anchor": "bottom_right"}, "border": "replicate"},
    {"crop": {"fraction": 0.8, "center": [0.3, 0.6]}},
    ["hflip", {"rotate": 10}, {"shift": [4, 3]}],
    [{"rotate": 10}, "hflip"],
    [{"shift": [4, 3]}, {"rot90": 1}, {"crop": {"fraction": 0.8, "anchor": "top_right"}}],
    [{"scale": 1.25}, {"window": "top_left"}, {"rotate": 8}, "transpose"],
    [{"scale": 1.25}, {"window": [0.3, 0.9]}, {"zoom": 1.1}, "vflip"],
]

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
shares = st.floats(0, 1)
images = st.builds(Size, st.integers(70, 110), st.integers(70, 110))


def viewed(prep, pixels, view):
    """Return the model's input for a view, and its placement."""
    placement = prep.place(view, size_of(pixels))
    return written(prep, prep.canvas(pixels, view.scale), view, placement), placement


def written(prep, canvas, view, placement):
    batch = prep.empty(1, placement.tensor)
    prep.write(canvas, view, placement, batch[0])
    return batch[0]


def framed(tensor, placement):
    """Return the part of a tensor (C, H, W) that is the view's frame."""
    (x, y), (w, h) = placement.inset, placement.frame
    return tensor[:, y : y + h, x : x + w]
