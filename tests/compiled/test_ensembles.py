"""An exported ensemble states what lies beyond a frame, since its front makes it."""

import pytest

from tta_server.compiled.ensembles import stated_views
from tta_server.imaging.padding import Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size


@pytest.mark.parametrize(
    ("prep", "stated"),
    [
        (Preprocessing(multiple=8), {}),
        (Preprocessing(multiple=8, pad=Pad.ZEROS), {"pad": "zeros"}),
        (Preprocessing(Size(8, 8), Resize.LETTERBOX), {"letterbox_fill": 114}),
        (Preprocessing(Size(8, 8), Resize.LETTERBOX, letterbox_fill=(1, 2, 3)), {"letterbox_fill": [1, 2, 3]}),
        (Preprocessing(Size(8, 8), Resize.LETTERBOX, letterbox_fill="zeros"), {"letterbox_fill": "zeros"}),
    ],
)
def test_padding_is_stated(prep, stated):
    found = stated_views(prep)
    assert {key: value for key, value in found.items() if key in ("pad", "letterbox_fill")} == stated
