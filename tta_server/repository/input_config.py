"""The block `input` of `tta.yaml`: how images become a model's input."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tta_server.backends.inputs import FunctionName, InputNames
from tta_server.errors.validation import StrictModel
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Resize
from tta_server.imaging.resizing import ALL_INTERPOLATIONS, INTERPOLATIONS
from tta_server.imaging.sizes import ROUNDINGS, SHORT_SIDES

Byte = Annotated[int, Field(ge=0, le=255)]
Level = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0, le=16_384)]


class InputConfig(StrictModel):
    """How images become the model's input; lengths are in pixels.

    `size` and `crop_from` are [height, width]; `size` is `free` for a model that takes any size. `resize` is the short
    side's length before the centre crop, or a word. `background` (r, g, b) lies behind transparent pixels; `levels`
    (low, high) map samples of more than 8 bits to [0, 255]. `name` is the image's input of a model file that takes
    several; `others` are those beside it, as functions of the image's tensor.
    """

    size: Literal["free"] | tuple[Positive, Positive]
    resize: Literal["none", "exact", "cover", "letterbox"] | Positive | None = None
    crop_from: tuple[Positive, Positive] | None = None
    max_long_side: Positive | None = None
    long_side: Positive | None = None
    size_like: Literal[tuple(SHORT_SIDES)] = "torchvision"  # type: ignore[valid-type]
    rounding: Literal[tuple(ROUNDINGS)] = "round"  # type: ignore[valid-type]
    resize_like: Literal[tuple(INTERPOLATIONS)] = "pillow"  # type: ignore[valid-type]
    interpolation: Literal[ALL_INTERPOLATIONS] = "bilinear"  # type: ignore[valid-type]
    multiple: Annotated[int, Field(ge=1, le=512)] = 1
    pad: Pad = Pad.REFLECT
    max_size: Positive = 1024
    tile: Positive | None = None
    overlap: Annotated[int, Field(ge=0, le=1024)] = 64
    letterbox_anchor: Anchor = Anchor.CENTER
    letterbox_fill: Byte | Literal["zeros"] | tuple[Byte, Byte, Byte] = 114
    color: Literal["RGB", "BGR", "grey"] = "RGB"
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    background: tuple[Byte, Byte, Byte] | None = None
    levels: Literal["auto"] | tuple[Level, Level] | None = None
    name: str | None = None
    others: dict[str, FunctionName] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "InputConfig":
        channels = 1 if self.color == "grey" else 3
        for key in ("mean", "std"):
            if (found := len(getattr(self, key))) not in (1, channels):
                allowed = "1" if channels == 1 else f"1 or {channels}"
                raise ValueError(f"{key} has {found} numbers; color {self.color} allows {allowed}")
        self._check_resize()
        self._check_crop()
        self._check_interpolation()
        self._check_long_side()
        self._check_proportions()
        self._check_padding(channels)
        if isinstance(self.levels, tuple) and self.levels[0] >= self.levels[1]:
            raise ValueError(f"levels is {list(self.levels)}; it should be [low, high] with low under high, or auto")
        self._check_tiles()
        return self

    def _check_resize(self) -> None:
        if self.size == "free":
            if self.resize in ("exact", "cover", "letterbox"):
                raise ValueError(
                    f"resize {self.resize} needs a fixed size; size free allows resize: none, or a number, the short "
                    "side's length"
                )
            return
        if self.resize == "none":
            raise ValueError(
                "resize none needs size: free; a fixed size allows resize: exact, cover, letterbox, or a number, the "
                "short side's length"
            )
        if isinstance(self.resize, int) and self.resize < max(self.size):
            raise ValueError(
                f"resize {self.resize} is smaller than the centre crop; it should be at least {max(self.size)}"
            )

    def _check_crop(self) -> None:
        if self.crop_from is None:
            return
        if self.size == "free" or self.how not in (Resize.EXACT, Resize.COVER):
            raise ValueError("crop_from needs a fixed size and resize: exact or cover; remove it")
        if any(whole < part for whole, part in zip(self.crop_from, self.size, strict=True)):
            raise ValueError(
                f"crop_from is {list(self.crop_from)}; it should be at least the size of the centre crop, "
                f"{list(self.size)}"
            )

    def _check_interpolation(self) -> None:
        allowed = INTERPOLATIONS[self.resize_like]
        if self.interpolation not in allowed:
            raise ValueError(
                f"interpolation {self.interpolation} is not available with resize_like {self.resize_like}, which "
                f"allows {', '.join(allowed)}; change one of them"
            )

    def _check_long_side(self) -> None:
        if self.max_long_side is None:
            return
        if self.size != "free":
            raise ValueError(
                "max_long_side needs size: free; with a fixed size the centre crop could exceed the image; remove it"
            )
        if not isinstance(self.resize, int):
            raise ValueError("max_long_side needs resize: a number, the short side's length")
        if self.max_long_side <= self.resize:
            raise ValueError(
                f"max_long_side is {self.max_long_side}; it should be over the short side's length, {self.resize}"
            )

    def _check_proportions(self) -> None:
        if self.long_side is not None:
            if self.size != "free":
                raise ValueError("long_side needs size: free; for a fixed size use resize: letterbox")
            if self.resize is not None:
                raise ValueError(f"long_side and resize {self.resize} exclude each other; remove one of them")
        if "rounding" in self.model_fields_set and self.long_side is None and self.resize != "letterbox":
            raise ValueError("rounding needs resize: letterbox, or long_side; for a short side use size_like")
        if "size_like" in self.model_fields_set and not isinstance(self.resize, int):
            raise ValueError("size_like needs resize: a number, the short side's length")

    def _check_padding(self, channels: int) -> None:
        if self.pad is not Pad.REFLECT and (self.multiple == 1 or self.resize == "letterbox"):
            raise ValueError(
                f"pad {self.pad} needs multiple, over 1, and another resize than letterbox, whose bars are "
                "letterbox_fill; remove it"
            )
        if "letterbox_anchor" in self.model_fields_set and self.resize != "letterbox":
            raise ValueError("letterbox_anchor needs resize: letterbox; remove it")
        if isinstance(self.letterbox_fill, tuple) and channels == 1:
            raise ValueError("letterbox_fill has 3 numbers; color grey allows 1")

    @property
    def names(self) -> InputNames:
        """The names of the model file's inputs."""
        return InputNames(self.name, self.others, self.layout)

    @property
    def how(self) -> Resize:
        """How an image becomes the canvas."""
        if self.long_side is not None:
            return Resize.LONG
        if isinstance(self.resize, int):
            return Resize.SHORT
        return Resize(self.resize or ("none" if self.size == "free" else "exact"))

    @property
    def crops(self) -> bool:
        """True if the model is given the centre of the resized image."""
        return self.size != "free" and (self.how in (Resize.SHORT, Resize.COVER) or self.crop_from is not None)

    @property
    def stated_long_side(self) -> int:
        """The long side's limit or length, `max_long_side` or `long_side`; 0 without."""
        return self.max_long_side or self.long_side or 0

    @property
    def max_whole_side(self) -> int:
        """Longest side of an image that is one input: `max_size`, or the stated long side if only that is given."""
        return self.max_size if "max_size" in self.model_fields_set else max(self.max_size, self.stated_long_side)

    def long_side_limit(self, can_tile: bool) -> int:
        """Limit of the long side of an image whose short side is resized to a number of pixels; 0 for none.

        It is `max_long_side`; for a task that does not tile, else a stated `max_size`, as in torchvision.
        """
        if self.max_long_side or can_tile or self.size != "free" or not isinstance(self.resize, int):
            return self.max_long_side or 0
        return self.max_size if "max_size" in self.model_fields_set else 0

    def _check_tiles(self) -> None:
        if self.tile is None:
            return
        if self.size != "free":
            raise ValueError("tile needs size: free; a fixed size takes every image whole; remove it")
        if self.tile % self.multiple or not 2 * self.overlap < self.tile <= self.max_whole_side:
            raise ValueError(
                f"tile is {self.tile}; it should be a multiple of {self.multiple}, over {2 * self.overlap} (twice the "
                f"overlap), and at most {self.max_whole_side} (max_size)"
            )

    @property
    def tile_side(self) -> int:
        """Side of a tile: `tile`, else the largest multiple up to TILE and max_size; 0 if too small to overlap."""
        side = self.tile or min(TILE, self.max_whole_side) // self.multiple * self.multiple
        return side if side > 2 * self.overlap else 0


TILE = 512
"""Default side of a tile, in pixels."""
