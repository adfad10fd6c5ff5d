"""One image of a request: its source, its canvases, and its views as model inputs and predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.errors import BackendFailed
from tta_server.imaging.canvases import Canvases
from tta_server.imaging.decoding import Header, Limits, Pixels, decode_with_levels, read_header
from tta_server.imaging.formats.samples import DEFAULT_RENDERING, DecodedImage, Rendering
from tta_server.imaging.inputs import check_pixels
from tta_server.imaging.preprocessing import Canvas
from tta_server.serving.layout import Layout
from tta_server.serving.plan import Plan
from tta_server.tasks import ImageFrame
from tta_server.views.geometry import Size
from tta_server.views.view import View

Image = bytes | NDArray[np.uint8]
"""An encoded image, or upright RGB pixels (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image as the client sent it: encoded bytes with their header, or upright RGB pixels (H, W, 3) uint8.

    `size` is that of the upright image in pixels.
    """

    size: Size
    encoded: bytes = b""
    header: Header | None = None
    pixels: Pixels | None = None
    rendering: Rendering = DEFAULT_RENDERING

    @property
    def nbytes(self) -> int:
        """The most memory that the image takes until it is decoded: its encoded bytes, samples and pixels."""
        return len(self.encoded) + 3 * self.size.area + (self.header.sample_bytes if self.header else 0)

    def open(self) -> DecodedImage:
        """Upright RGB pixels and the applied levels. Raises InvalidInput, UnsupportedMedia or TooLarge."""
        if self.pixels is not None:
            return DecodedImage(self.pixels)
        assert self.header is not None
        return decode_with_levels(self.encoded, self.header, self.rendering)


def read_source(image: Image, limits: Limits, rendering: Rendering = DEFAULT_RENDERING) -> Source:
    """Reads and checks an image's header, without decoding. Raises InvalidInput, UnsupportedMedia or TooLarge."""
    if isinstance(image, bytes):
        header = read_header(image, limits, rendering)
        return Source(header.size, image, header, rendering=rendering)
    return Source(check_pixels(image, limits), pixels=np.ascontiguousarray(image))


@dataclass(frozen=True, slots=True)
class ViewError:
    """A view could not be made or its output not be used, which fails this view alone.

    `sentence` is the message to the client if the view is mandatory.
    """

    error: Exception
    sentence: str

    @property
    def failure(self) -> BackendFailed:
        """The error of a request whose mandatory view this is."""
        if isinstance(self.error, BackendFailed):
            return self.error
        failure = BackendFailed(self.sentence)
        failure.__cause__ = self.error
        return failure


UNREADABLE = "the model's output for a view could not be read"
SUMMED = object()
"""In place of a view's prediction: it is part of the sums over its image's views."""
NOT_MADE = "a view of the image could not be made"


class ImageViews:
    """The views of a plan on one image, as model inputs and predictions; thread-safe.

    An entry is a view, or a tile of one, numbered as in the layout.
    """

    def __init__(self, plan: Plan, layout: Layout, size: Size) -> None:
        """`size` is that of the upright image, `layout` the plan's for this size."""
        self.plan = plan
        self.model = plan.model
        self.layout = layout
        self.frame = ImageFrame(size, layout.plain, layout.tiles)
        self._canvases = Canvases(plan.model.preprocessing, (view.scale for view in plan.views))

    def decode(self, source: Source) -> DecodedImage:
        """Decodes the image and makes the plain view's canvas; other canvases are made when a view needs them.

        Raises InvalidInput, UnsupportedMedia or TooLarge.
        """
        picture = source.open()
        self._canvases.open(picture.raster)
        return picture

    def view(self, entry: int) -> View:
        """The view that an entry belongs to."""
        return self.plan.views[entry // self.layout.tiles]

    def tile(self, entry: int) -> int | None:
        """The number of the tile that an entry is; None for an image that is not cut into tiles."""
        return entry % self.layout.tiles if self.layout.tiles > 1 else None

    def input_size(self, entry: int) -> Size:
        """The size of an entry as model input, in pixels."""
        return self.layout.placements[entry].tensor

    def canvas(self, entry: int) -> Canvas | None:
        """The canvas that an entry is cut or sampled from; None before `decode` and after `close`."""
        return self._canvases.get(self.view(entry).scale)

    def write(self, entry: int, row: Tensor) -> None:
        """Writes an entry, preprocessed, into its row of a batch; zeros where it has no canvas."""
        canvas = self.canvas(entry)
        if canvas is None:
            row.fill(0)
        else:
            self.model.preprocessing.write(canvas, self.view(entry), self.layout.placements[entry], row)

    def read(self, entry: int, outputs: Outputs, row: int) -> Any:
        """The prediction in this row of a model's outputs, mapped back to the plain view's frame."""
        return self.model.task.decode(outputs, row, self.layout.placements[entry], self.frame)

    def close(self) -> None:
        """Frees all pixels."""
        self._canvases.close()
