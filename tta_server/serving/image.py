"""One image of a request: what was sent, its canvases, and its views as a model's inputs and predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.imaging.canvases import Canvases
from tta_server.imaging.decoding import Header, Limits, Pixels, decode_picture, read_header
from tta_server.imaging.inputs import check_pixels
from tta_server.imaging.samples import DROP, Picture, Rendering
from tta_server.serving.plan import Layout, Plan
from tta_server.tasks import ImageFrame
from tta_server.views.geometry import Size
from tta_server.views.view import View

Image = bytes | NDArray[np.uint8]
"""An encoded image, or upright RGB pixels (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the client sent: encoded bytes with their header, or upright RGB pixels (H, W, 3) uint8."""

    size: Size
    encoded: bytes = b""
    header: Header | None = None
    pixels: Pixels | None = None
    rendering: Rendering = DROP

    @property
    def nbytes(self) -> int:
        """What it may hold while it waits and is decoded: its bytes, its samples and its pixels."""
        return len(self.encoded) + 3 * self.size.area + (self.header.unpacked if self.header else 0)

    def open(self) -> Picture:
        """Its pixels and the levels applied. Raises InvalidInput, UnsupportedMedia or TooLarge."""
        if self.pixels is not None:
            return Picture(self.pixels)
        assert self.header is not None
        return decode_picture(self.encoded, self.header, self.rendering)


def read_source(image: Image, limits: Limits, rendering: Rendering = DROP) -> Source:
    """Reads header and size, and checks them against the limits; decodes nothing. Raises as `read_header` does."""
    if isinstance(image, bytes):
        header = read_header(image, limits, rendering)
        return Source(header.size, image, header, rendering=rendering)
    return Source(check_pixels(image, limits), pixels=np.ascontiguousarray(image))


@dataclass(frozen=True, slots=True)
class ViewError:
    """A view could not be made, or its output not be used, for an error of its own; `sentence` is the message to the
    client if the view was mandatory."""

    error: Exception
    sentence: str


class ImageViews:
    """The views of a plan on one image. An entry is a view, or a tile of one, numbered as in the layout.

    Methods may run on several threads.
    """

    def __init__(self, plan: Plan, layout: Layout, size: Size) -> None:
        """`layout` is that of the plan for an upright image of that size."""
        self.plan = plan
        self.model = plan.model
        self.layout = layout
        self.frame = ImageFrame(size, layout.plain, layout.tiles)
        self._canvases = Canvases(plan.model.preprocessing, (view.scale for view in plan.views))

    def decode(self, source: Source) -> Picture:
        """Decodes the image and makes the plain view's canvas; other canvases wait until a view needs them.

        Raises InvalidInput, UnsupportedMedia or TooLarge.
        """
        picture = source.open()
        self._canvases.open(picture.pixels)
        return picture

    def view(self, entry: int) -> View:
        return self.plan.views[entry // self.layout.tiles]

    def input_size(self, entry: int) -> Size:
        return self.layout.placements[entry].tensor

    def write(self, entry: int, row: Tensor) -> None:
        """Writes an entry into its row of a batch; zeros before `decode` and after `close`."""
        view = self.view(entry)
        canvas = self._canvases.get(view.scale)
        if canvas is None:
            row.fill(0)
        else:
            self.model.preprocessing.write(canvas, view, self.layout.placements[entry], row)

    def read(self, entry: int, outputs: Outputs, row: int) -> Any:
        """The prediction that this row of a model's outputs holds, moved back into the plain view's frame."""
        return self.model.task.decode(outputs, row, self.layout.placements[entry], self.frame)

    def close(self) -> None:
        """Frees all pixels; an entry that is written later is zeros."""
        self._canvases.close()
