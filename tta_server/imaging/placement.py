"""Where a view lies for an image: canvas, frame, tensor, and the affine maps between them. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from tta_server.imaging.tiling import Tile
from tta_server.views.geometry import Affine, Geometry, Size


class Window(NamedTuple):
    """A part of a canvas of size `canvas`: offset of its top left corner, and its size, in pixels."""

    canvas: Size
    left: int
    top: int
    size: Size


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one view lies for one image size; sizes and coordinates are in pixels.

    `to_canvas` maps a point of the view's frame to the canvas, of size `canvas`. `to_plain` maps it to the plain view's
    frame, of size `whole`, and so undoes a prediction. `exact`: pixels are copied, not interpolated. The model's input
    has size `tensor` and holds the frame at (left, top) = `inset`, padded. `tile` is the part of a tiled image.
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
        """True if left and right are swapped, so that paired labels must be swapped too."""
        return self.to_plain.determinant < 0


def view_maps(geometry: Geometry, window: Window, plain: Window) -> tuple[Affine, Affine]:
    """Return `to_canvas` and `to_plain` of a `Placement`, for a view's window and the plain view's window."""
    to_canvas = Affine.shift(-window.left, -window.top).then(geometry.at(window.size)).inverse()
    factors = plain.canvas.width / window.canvas.width, plain.canvas.height / window.canvas.height
    to_plain = to_canvas.then(Affine.stretch(*factors)).then(Affine.shift(-plain.left, -plain.top))
    return to_canvas, to_plain
