"""From an upright image to model inputs: sizes, canvases, and where each view lies.

The plain view equals the usual offline preprocessing (torchvision on Pillow images): antialiased resize, centre
crop, (x / scale - mean) / std. One canvas is made for each content size that the views use, straight from the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import TooLarge
from tta_server.imaging.decoding import Limits, Pixels
from tta_server.imaging.formats.samples import DROP, Rendering
from tta_server.imaging.normalization import Channels, Normalization, apply_color
from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import border_index, is_exact, sample
from tta_server.imaging.sizes import scaled, short_side
from tta_server.imaging.tiling import Grid, Tile, cut, tile_count
from tta_server.views.geometry import Affine, Geometry, Size
from tta_server.views.view import Border, View

Tensor = NDArray[np.generic]

KEPT_VALUES = 3 << 20
"""Normalised canvases up to 1024x1024 are kept: most views are then one copy, not four passes."""


class Resize(StrEnum):
    """How an image becomes the canvas: as it is; short side to a length; to a size exactly; to fit inside a size."""

    NONE = "none"
    SHORT = "short"
    EXACT = "exact"
    LETTERBOX = "letterbox"


INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


class Canvas:
    """One image at one content size: `planes` (C, H, W) uint8 in the model's channel order."""

    __slots__ = ("_preprocessing", "_values", "planes")

    def __init__(self, planes: NDArray[np.uint8], preprocessing: "Preprocessing") -> None:
        self.planes = planes
        self._preprocessing = preprocessing
        self._values: NDArray[np.generic] | None = None

    @property
    def values(self) -> NDArray[np.generic] | None:
        """The planes as the model wants their values, kept for the next view; None where they are too large for it."""
        if self._values is None and self._preprocessing.dtype == np.uint8:
            return self.planes
        if self._values is None and self.planes.size <= KEPT_VALUES:
            self._values = self._preprocessing.normalized(self.planes.astype(np.float32))
        return self._values


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What a model wants to see. `size` is the input's; None means that the model takes any size.

    `resize_to` is the short side's length for SHORT and unused elsewhere, and `max_long_side` the most that the long
    side may then have, 0 meaning any. Images over `max_size` are looked at in tiles of `tile` pixels a side that
    overlap by `overlap` or more, a tile of 0 meaning not at all.
    """

    size: Size | None = None
    resize: Resize = Resize.NONE
    resize_to: int = 0
    max_long_side: int = 0
    interpolation: str = "bilinear"
    multiple: int = 1
    max_size: int = 1024
    tile: int = 0
    overlap: int = 64
    letterbox_fill: int = 114
    channels: Channels = Channels.RGB
    normalization: Normalization = field(default_factory=Normalization)
    layout: str = "NCHW"
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))
    rendering: Rendering = DROP

    @property
    def crops(self) -> bool:
        """True where the plain window is a part of the canvas."""
        return self.resize is Resize.SHORT and self.size is not None

    @property
    def depth(self) -> int:
        """Number of channels that the model sees."""
        return 1 if self.channels is Channels.GREY else 3

    # ---- sizes ----

    def canvas_size(self, image: Size, scale: float = 1.0) -> Size:
        """The canvas for an upright image of that size, content `scale` times as large as usual."""
        if self.resize is Resize.NONE:
            return scaled(image, scale)
        if self.resize is Resize.SHORT:
            return short_side(image, round(self.resize_to * scale), round(self.max_long_side * scale))
        assert self.size is not None
        if self.resize is Resize.EXACT:
            return scaled(self.size, scale)
        fit = min(self.size.width / image.width, self.size.height / image.height) * scale
        return scaled(image, fit)

    def window(self, canvas: Size, anchor: tuple[float, float] | None, plain: Size) -> tuple[tuple[int, int], Size]:
        """(left, top) and size of the window on a canvas; `plain` is the plain view's canvas.

        The centre is rounded as torchvision does. A model of free size sees the whole canvas, unless a window of the
        plain view's size is asked for.
        """
        most = self.size or (canvas if anchor is None else plain)
        size = Size(min(canvas.width, most.width), min(canvas.height, most.height))
        x, y = anchor or (0.5, 0.5)
        return (round((canvas.width - size.width) * x), round((canvas.height - size.height) * y)), size

    def tensor_size(self, frame: Size) -> Size:
        """What the model is given for a frame: letterbox bars or padding to the multiple included."""
        if self.resize is Resize.LETTERBOX and self.size is not None:
            return self.size
        up = self.multiple
        return Size(-(-frame.width // up) * up, -(-frame.height // up) * up)

    def is_tiled(self, image: Size) -> bool:
        """True for an image that is too large to be looked at whole and is looked at in tiles."""
        return bool(self.tile) and self.size is None and max(self.canvas_size(image)) > self.max_size

    def tiles(self, image: Size) -> Sequence[Tile]:
        """The parts of an image that is too large to be looked at whole; empty for others."""
        return self._grid(image) if self.is_tiled(image) else ()

    def tile_count(self, image: Size) -> int:
        """Inputs for each view of an image: its tiles, or 1. They are counted, not made."""
        return tile_count(self.canvas_size(image), self.tile, self.overlap) if self.is_tiled(image) else 1

    def _grid(self, image: Size) -> Grid:
        return cut(self.canvas_size(image), self.tile, self.overlap, self.multiple)

    def input_sizes(self, view: View, image: Size) -> list[Size]:
        """What the model is given for a view: an input's size for each tile, or one. Equal for views of the same scale
        and anchor of which both or neither swap width and height."""
        plain = self.canvas_size(image)
        window = self.window(self.canvas_size(image, view.scale), view.anchor, plain)[1]
        windows = self._grid(image).sizes_within(window) if self.is_tiled(image) else [window]
        inputs = {part: self.tensor_size(view.geometry.frame(part)) for part in set(windows)}
        return [inputs[part] for part in windows]

    def place(self, view: View, image: Size, tile: Tile | None = None) -> Placement:
        """Where `view` lies for an upright image of that size, or for a tile of it."""
        return _place(self, view.geometry, view.scale, view.anchor, image, tile)

    def check(self, views: Sequence[View], image: Size, limits: Limits) -> None:
        """Raises TooLarge for an image whose canvas or input would be too large, before it is decoded."""
        plain = self.canvas_size(image)
        for scale, anchor in dict.fromkeys((view.scale, view.anchor) for view in views):
            canvas = self.canvas_size(image, scale)
            if canvas.area > limits.canvas_pixels or max(canvas) > limits.canvas_side:
                raise TooLarge(
                    f"the image is {image} and would be {canvas} after resizing; at most {limits.canvas_pixels} pixels "
                    f"(--max-pixels raises this) and {limits.canvas_side} on a side are taken"
                )
            seen = self._seen_at_once(image, plain, self.window(canvas, anchor, plain)[1])
            if seen.area > limits.input_pixels or max(seen) > limits.input_side:
                raise TooLarge(
                    f"the image is {image} and the model would be given {seen} of it at once; at most "
                    f"{limits.input_pixels} pixels and {limits.input_side} on a side are, which no option raises: send "
                    "a smaller image, or state a smaller input.resize or input.tile in the model's tta.yaml"
                )
        if self.size is None and max(plain) > self.max_size and not self.tile:
            found = f"{image}" if plain == image else f"{image} and {plain} after resizing"
            raise TooLarge(
                f"the image is {found}; this model takes at most {self.max_size} pixels on the long side: its tta.yaml "
                "may raise input.max_size, or state input.resize with input.max_long_side"
            )

    def _seen_at_once(self, image: Size, plain: Size, window: Size) -> Size:
        """The input for a window of a canvas, or for the largest tile of it; `plain` is the plain view's canvas."""
        if self.is_tiled(image):
            part = min(1.0, self.tile / plain.width), min(1.0, self.tile / plain.height)
            window = Size(math.ceil(window.width * part[0]), math.ceil(window.height * part[1]))
        return self.tensor_size(window)

    # ---- pixels ----

    def canvas(self, pixels: Pixels, scale: float) -> Canvas:
        """The image resized for one content size."""
        size = self.canvas_size(Size(pixels.shape[1], pixels.shape[0]), scale)
        grey = self.channels is Channels.GREY
        if grey or size != (pixels.shape[1], pixels.shape[0]):
            picture = Image.fromarray(pixels)
            picture = picture.convert("L") if grey else picture
            if picture.size != size:
                picture = picture.resize(size, INTERPOLATIONS[self.interpolation])
            pixels = np.asarray(picture).reshape(size.height, size.width, -1)
        planes = pixels.transpose(2, 0, 1)
        planes = np.ascontiguousarray(planes[::-1] if self.channels is Channels.BGR else planes)
        return Canvas(planes, self)

    def empty(self, n: int, size: Size) -> Tensor:
        """A batch to be written, in the model's layout and dtype."""
        planes, pixels = (self.depth,), (size.height, size.width)
        shape = pixels + planes if self.layout == "NHWC" else planes + pixels
        return np.empty((n, *shape), self.dtype)

    def write(self, canvas: Canvas, view: View, placement: Placement, out: Tensor) -> None:
        """Writes one view as the model sees it into `out`, one row of a batch in the model's layout and dtype."""
        out = out.transpose(2, 0, 1) if self.layout == "NHWC" else out
        x, y = placement.inset
        width, height = placement.frame
        target = out[:, y : y + height, x : x + width]
        where = (placement.to_canvas, placement.frame, view.border)
        ready = canvas.values if view.color.is_identity and view.border is not Border.CONSTANT else None
        if placement.exact and ready is not None:
            target[...] = sample(ready, *where)
        else:
            values = sample(canvas.planes, *where).astype(np.float32, copy=False)
            if not view.color.is_identity:
                np.clip(apply_color(values, view.color, self.channels), 0, 255, out=values)
            target[...] = self.normalized(values)
        if placement.frame != placement.tensor:
            self._pad(out, placement)

    def normalized(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values in [0, 255] as the model wants them; models that take uint8 round. In place, and returned."""
        if self.dtype == np.uint8:
            return np.rint(values, out=values)
        return self.normalization.apply(values)

    def _pad(self, out: Tensor, placement: Placement) -> None:
        """Letterbox bars around the frame, or its reflection to the right and below."""
        x, y = placement.inset
        width, height = placement.frame
        if self.resize is Resize.LETTERBOX:
            bar = self.normalized(np.full((self.depth, 1, 1), self.letterbox_fill, np.float32))
            for part in (out[:, :y], out[:, y + height :], out[:, :, :x], out[:, :, x + width :]):
                part[...] = bar
            return
        columns = border_index(np.arange(width, placement.tensor.width), width, Border.REFLECT101)
        rows = border_index(np.arange(height, placement.tensor.height), height, Border.REFLECT101)
        out[:, :height, width:] = out[:, :height, columns]
        out[:, height:] = out[:, rows]


@lru_cache(maxsize=1024)  # entries take about 2 kB each, so all together 2 MB
def _place(
    prep: Preprocessing,
    geometry: Geometry,
    scale: float,
    anchor: tuple[float, float] | None,
    image: Size,
    tile: Tile | None,
) -> Placement:
    canvas = prep.canvas_size(image, scale)
    plain_canvas = prep.canvas_size(image)
    (left, top), window = prep.window(canvas, anchor, plain_canvas)
    (plain_left, plain_top), whole = prep.window(plain_canvas, None, plain_canvas)
    if tile is not None:
        (left, top), window = tile.within((left, top), window, whole)
    to_frame = Affine.shift(-left, -top).then(geometry.at(window))
    to_canvas = to_frame.inverse()
    to_plain = to_canvas.then(
        Affine.stretch(plain_canvas.width / canvas.width, plain_canvas.height / canvas.height)
    ).then(Affine.shift(-plain_left, -plain_top))
    frame = geometry.frame(window)
    tensor = prep.tensor_size(frame)
    boxed = prep.resize is Resize.LETTERBOX
    inset = ((tensor.width - frame.width) // 2, (tensor.height - frame.height) // 2) if boxed else (0, 0)
    return Placement(canvas, whole, frame, tensor, inset, to_canvas, to_plain, is_exact(to_canvas), tile)
