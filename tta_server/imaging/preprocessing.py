"""From an upright image to model inputs: sizes, canvases, and the placement of each view.

The plain view equals offline preprocessing with torchvision on Pillow images, or with OpenCV's or torch's resize:
resize, centre crop, (x / scale - mean) / std. Each content size that views use has its own canvas, resized straight
from the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import TooLarge
from tta_server.imaging.decoding import Limits, Raster
from tta_server.imaging.formats.samples import DEFAULT_RENDERING, Rendering, raster_size
from tta_server.imaging.normalization import Channels, Normalization, apply_color
from tta_server.imaging.padding import Anchor, Fill, Pad, fill_around, fill_pixels, inset, reflect_beyond
from tta_server.imaging.placement import Placement, Window, view_maps
from tta_server.imaging.resampling import copy_exact, is_exact, sample
from tta_server.imaging.resizing import resize, to_grey
from tta_server.imaging.sizes import covering, long_side, scaled, short_side
from tta_server.imaging.tiling import Grid, Tile, make_grid, tile_count
from tta_server.views.geometry import Geometry, Size
from tta_server.views.view import Border, View

Tensor = NDArray[np.generic]

MAX_CACHED_VALUES = 3 << 20
"""Normalised canvases up to 1024x1024 RGB are cached: most views are then one copy, not four passes."""


class Resize(StrEnum):
    """How an image becomes the canvas: unchanged; a side to a length; to an exact size; to cover or fit inside one."""

    NONE = "none"
    SHORT = "short"
    LONG = "long"
    EXACT = "exact"
    COVER = "cover"
    LETTERBOX = "letterbox"


class Canvas:
    """An image at one content size: `planes` (C, H, W) uint8 in the model's channel order."""

    __slots__ = ("_preprocessing", "_values", "planes")

    def __init__(self, planes: NDArray[np.uint8], preprocessing: "Preprocessing") -> None:
        self.planes = planes
        self._preprocessing = preprocessing
        self._values: NDArray[np.generic] | None = None

    @property
    def values(self) -> NDArray[np.generic] | None:
        """Normalised planes (C, H, W), cached for the next view; None if they are too large for that."""
        if self._values is None and self._preprocessing.dtype == np.uint8:
            return self.planes
        if self._values is None and self.planes.size <= MAX_CACHED_VALUES:
            self._values = self._preprocessing.normalized(self.planes.astype(np.float32))
        return self._values


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How images become inputs of a model. Lengths are in pixels.

    `size` is the input's size; None means any size. `resize_to` is the length of the short side for SHORT, of the long
    side for LONG. EXACT and COVER resize to `crop_from`, or to `size`. For SHORT `max_long_side` bounds the long side
    (0: unbounded), rounded as `size_like` rounds it. An image with a side over `max_size` is cut into tiles of side
    `tile` (0: refused) that overlap by `overlap`. Inputs of any size are padded to a multiple of `multiple`.
    """

    size: Size | None = None
    resize: Resize = Resize.NONE
    resize_to: int = 0
    max_long_side: int = 0
    size_like: str = "torchvision"
    crop_from: Size | None = None
    resize_like: str = "pillow"
    interpolation: str = "bilinear"
    multiple: int = 1
    max_size: int = 1024
    tile: int = 0
    overlap: int = 64
    pad: Pad = Pad.REFLECT
    rounding: str = "round"
    letterbox_anchor: Anchor = Anchor.CENTER
    letterbox_fill: Fill = 114
    channels: Channels = Channels.RGB
    normalization: Normalization = field(default_factory=Normalization)
    layout: str = "NCHW"
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))
    rendering: Rendering = DEFAULT_RENDERING

    @property
    def crops(self) -> bool:
        """True if the plain view's window is a part of the canvas."""
        if self.resize is Resize.EXACT:
            return self.crop_from is not None
        return self.resize in (Resize.SHORT, Resize.COVER) and self.size is not None

    @property
    def depth(self) -> int:
        """Number of channels of the model's input."""
        return 1 if self.channels is Channels.GREY else 3

    @property
    def bar(self) -> NDArray[np.float32] | None:
        """What lies beyond a frame in the model's input, (C, 1, 1); None: the frame is reflected."""
        fill = self.letterbox_fill if self.resize is Resize.LETTERBOX else self.pad
        if fill == "zeros":
            return np.zeros((self.depth, 1, 1), np.float32)
        return None if isinstance(fill, Pad) else self.normalized(fill_pixels(fill, self.depth))

    # ---- sizes ----

    def canvas_size(self, image: Size, scale: float = 1.0) -> Size:
        """Return the size of the canvas of an upright image whose content is enlarged `scale` times."""
        if self.resize is Resize.NONE:
            return scaled(image, scale)
        if self.resize is Resize.SHORT:
            longest = round(self.max_long_side * scale)
            return short_side(image, round(self.resize_to * scale), longest, self.size_like)
        if self.resize is Resize.LONG:
            return long_side(image, round(self.resize_to * scale), self.rounding)
        assert self.size is not None
        target = self.crop_from or self.size
        if self.resize is Resize.EXACT:
            return scaled(target, scale)
        if self.resize is Resize.COVER:
            return covering(image, target, scale)
        fit = min(self.size.width / image.width, self.size.height / image.height) * scale
        return scaled(image, fit, self.rounding)

    def window(self, canvas: Size, anchor: tuple[float, float] | None, plain: Size) -> Window:
        """Return the window on a canvas; `plain` is the size of the plain view's canvas.

        The centre is rounded as torchvision rounds it. A model of free size gets the whole canvas, unless `anchor`
        selects a window of the plain view's size.
        """
        bound = self.size or (canvas if anchor is None else plain)
        size = Size(min(canvas.width, bound.width), min(canvas.height, bound.height))
        x, y = anchor or (0.5, 0.5)
        left, top = round((canvas.width - size.width) * x), round((canvas.height - size.height) * y)
        return Window(canvas, left, top, size)

    def tensor_size(self, frame: Size) -> Size:
        """Return the size of the model's input for a frame, with letterbox bars or padding to the multiple."""
        if self.resize is Resize.LETTERBOX and self.size is not None:
            return self.size
        step = self.multiple
        return Size(-(-frame.width // step) * step, -(-frame.height // step) * step)

    def is_tiled(self, image: Size) -> bool:
        """True for an image that is too large for one input and is cut into tiles."""
        return bool(self.tile) and self.size is None and max(self.canvas_size(image)) > self.max_size

    def tiles(self, image: Size) -> Sequence[Tile]:
        """Return the tiles of an image that is too large for one input; empty for others."""
        return self._grid(image) if self.is_tiled(image) else ()

    def tile_count(self, image: Size) -> int:
        """Return the number of inputs per view: the number of tiles, or 1. No tile is made."""
        return tile_count(self.canvas_size(image), self.tile, self.overlap) if self.is_tiled(image) else 1

    def _grid(self, image: Size) -> Grid:
        return make_grid(self.canvas_size(image), self.tile, self.overlap, self.multiple)

    def input_sizes(self, view: View, image: Size) -> list[Size]:
        """Return the size of each input of a view: one per tile, or one.

        Views of the same scale and anchor, both or neither of which swap width and height, have equal sizes.
        """
        plain = self.canvas_size(image)
        window = self.window(self.canvas_size(image, view.scale), view.anchor, plain).size
        windows = self._grid(image).sizes_within(window) if self.is_tiled(image) else [window]
        inputs = {part: self.tensor_size(view.geometry.frame(part)) for part in set(windows)}
        return [inputs[part] for part in windows]

    def place(self, view: View, image: Size, tile: Tile | None = None) -> Placement:
        """Return where `view` lies for an upright image of that size, or for a tile of it."""
        return _place(self, view.geometry, view.scale, view.anchor, image, tile)

    def check(self, views: Sequence[View], image: Size, limits: Limits) -> None:
        """Raise TooLarge if a canvas or an input of a view would be too large; works before decoding."""
        plain = self.canvas_size(image)
        for scale, anchor in dict.fromkeys((view.scale, view.anchor) for view in views):
            canvas = self.canvas_size(image, scale)
            if canvas.area > limits.canvas_pixels or max(canvas) > limits.canvas_side:
                raise TooLarge(
                    f"the image is {image} and would be {canvas} after resizing; the limits are {limits.canvas_pixels} "
                    f"pixels (--max-pixels raises this) and {limits.canvas_side} on a side"
                )
            largest = self._largest_input(image, plain, self.window(canvas, anchor, plain).size)
            if largest.area > limits.input_pixels or max(largest) > limits.input_side:
                raise TooLarge(
                    f"the image is {image} and the model would be given {largest} at once; the limits are "
                    f"{limits.input_pixels} pixels and {limits.input_side} on a side, which no option raises: send a "
                    "smaller image, or set a smaller input.resize or input.tile in the model's tta.yaml"
                )
        if self.size is None and max(plain) > self.max_size and not self.tile:
            found = f"{image}" if plain == image else f"{image} and {plain} after resizing"
            raise TooLarge(
                f"the image is {found}; this model's limit is {self.max_size} pixels on the long side: send a smaller "
                "image, or set a larger input.max_size, or input.resize with input.max_long_side, in its tta.yaml"
            )

    def _largest_input(self, image: Size, plain: Size, window: Size) -> Size:
        """Return the input size of a window of a canvas, or of its largest tile; `plain` is the plain view's canvas."""
        if self.is_tiled(image):
            part = min(1.0, self.tile / plain.width), min(1.0, self.tile / plain.height)
            window = Size(math.ceil(window.width * part[0]), math.ceil(window.height * part[1]))
        return self.tensor_size(window)

    # ---- pixels ----

    def canvas(self, raster: Raster, scale: float) -> Canvas:
        """Resize an image to the canvas of one content size."""
        found = raster_size(raster)
        size = self.canvas_size(found, scale)
        grey = self.channels is Channels.GREY
        if grey or size != found:
            raster = to_grey(raster) if grey else raster
            if size != found:
                raster = resize(raster, size, self.resize_like, self.interpolation)
        planes = np.asarray(raster).reshape(size.height, size.width, -1).transpose(2, 0, 1)
        planes = np.ascontiguousarray(planes[::-1] if self.channels is Channels.BGR else planes)
        return Canvas(planes, self)

    def empty(self, n: int, size: Size) -> Tensor:
        """Return an uninitialised batch of `n` inputs in the model's layout and dtype."""
        planes, pixels = (self.depth,), (size.height, size.width)
        shape = pixels + planes if self.layout == "NHWC" else planes + pixels
        return np.empty((n, *shape), self.dtype)

    def write(self, canvas: Canvas, view: View, placement: Placement, out: Tensor) -> None:
        """Write one view's input into `out`, one row of a batch in the model's layout and dtype."""
        out = out.transpose(2, 0, 1) if self.layout == "NHWC" else out
        x, y = placement.inset
        width, height = placement.frame
        target = out[:, y : y + height, x : x + width]
        normalized = canvas.values if view.color.is_identity and view.border is not Border.CONSTANT else None
        if placement.exact and normalized is not None:
            copy_exact(normalized, placement.to_canvas, view.border, target)
        else:
            values = sample(canvas.planes, placement.to_canvas, placement.frame, view.border).astype(
                np.float32, copy=False
            )
            if not view.color.is_identity:
                np.clip(apply_color(values, view.color, self.channels), 0, 255, out=values)
            target[...] = self.normalized(values)
        if placement.frame != placement.tensor:
            bar = self.bar
            reflect_beyond(out, placement) if bar is None else fill_around(out, placement, bar)

    def normalized(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise values in [0, 255] in place, and return them; they are rounded for a model of dtype uint8."""
        if self.dtype == np.uint8:
            return np.rint(values, out=values)
        return self.normalization.apply(values)


@lru_cache(maxsize=1024)  # an entry has about 2 kB
def _place(
    prep: Preprocessing,
    geometry: Geometry,
    scale: float,
    anchor: tuple[float, float] | None,
    image: Size,
    tile: Tile | None,
) -> Placement:
    plain_canvas = prep.canvas_size(image)
    plain = prep.window(plain_canvas, None, plain_canvas)
    window = prep.window(prep.canvas_size(image, scale), anchor, plain_canvas)
    if tile is not None:
        (left, top), part = tile.within((window.left, window.top), window.size, plain.size)
        window = Window(window.canvas, left, top, part)
    to_canvas, to_plain = view_maps(geometry, window, plain)
    frame = geometry.frame(window.size)
    tensor = prep.tensor_size(frame)
    anchor_of_frame = prep.letterbox_anchor if prep.resize is Resize.LETTERBOX else Anchor.TOP_LEFT
    return Placement(
        canvas=window.canvas,
        whole=plain.size,
        frame=frame,
        tensor=tensor,
        inset=inset(anchor_of_frame, frame, tensor),
        to_canvas=to_canvas,
        to_plain=to_plain,
        exact=is_exact(to_canvas),
        tile=tile,
    )
