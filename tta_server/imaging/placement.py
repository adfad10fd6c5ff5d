"""Where a view lies for an image: canvas, frame, tensor, and the affine maps between them. Pure."""

from dataclasses import dataclass

from tta_server.imaging.tiling import Tile
from tta_server.views.geometry import Affine, Size


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one view lies for one image size.

    `to_canvas` takes a point of the view's frame to the canvas of size `canvas`; `to_plain` takes it to the plain
    view's frame, which is how a prediction is undone; that frame's size is `whole`. `exact` says that pixels are
    copied, not interpolated. The model sees `tensor`: the frame, moved by `inset`, padded. `tile` is what it looks at
    of an image that is looked at in parts.
    """

    canvas: Size
    whole: Size
    frame: Size
    tensor: Size
    inset: tuple[int, int]
    to_canvas: Affine
    to_plain: Affine
    exact: bool
    tile: Tile | None = None

    @property
    def mirrors(self) -> bool:
        """True where left and right have changed places, so that paired labels must too."""
        return self.to_plain.determinant < 0
