"""A model's inputs beside the image: each is a function of the image's tensor and of where the image lies in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]
Shape = tuple[int | None, ...]
FunctionName = Literal["width_height", "height_width", "ones", "mask"]

LIKELY: Mapping[str, FunctionName] = {
    "orig_target_sizes": "width_height",
    "im_shape": "height_width",
    "scale_factor": "ones",
    "pixel_mask": "mask",
}
"""What inputs of these names are, as D-FINE, RT-DETR, PaddleDetection and Hugging Face name them."""


class Frame(NamedTuple):
    """Where the image lies in a row of a batch, in pixels; around it are letterbox bars or padding."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class InputNames:
    """How tta.yaml names a model's inputs.

    `image` is the image's, None for the only one; `others` has the function of each other one.
    """

    image: str | None = None
    others: Mapping[str, FunctionName] = field(default_factory=dict)
    layout: str = "NCHW"


@dataclass(frozen=True, slots=True)
class OtherInput:
    """An input beside the image; `shape` has None for free axes."""

    function: FunctionName
    shape: Shape
    dtype: np.dtype[Any]


class _Batch(NamedTuple):
    """A batch's number of rows, the size of its tensors, and where the images lie; no frames: they fill the tensors."""

    rows: int
    height: int
    width: int
    frames: Sequence[Frame]


Axes = tuple[str | int, ...]
"""Of a made input: N, H and W are the batch's, numbers are fixed."""


def _sizes_axes(shape: Shape) -> Axes | None:
    """[N, 2], or [2] of an input without a batch axis: all tensors of a batch have one size."""
    return {1: (2,), 2: ("N", 2)}.get(len(shape))


def _ones_axes(shape: Shape) -> Axes | None:
    """The input's own shape: a free axis is N, or 2 behind N."""
    axes: Axes = tuple(("N", 2)[min(i, 1)] if size is None else size for i, size in enumerate(shape))
    if not shape or None in shape[2:] or (len(shape) > 2 and shape[1] is None):
        return None
    return ("N", *axes[1:]) if len(shape) > 1 else axes


def _mask_axes(shape: Shape) -> Axes | None:
    return ("N", "H", "W") if len(shape) == 3 else None


def _mask(batch: _Batch, shape: Sequence[int]) -> Tensor:
    mask = np.zeros(shape, np.bool_)
    for row, (left, top, width, height) in zip(mask, batch.frames, strict=False):
        row[top : top + height, left : left + width] = True
    mask[len(batch.frames) :] = True
    return mask


@dataclass(frozen=True, slots=True)
class _Function:
    """`axes` are those of a made input, by the shape in the file; None if the function makes none of that shape."""

    make: Callable[[_Batch, Sequence[int]], Tensor]
    axes: Callable[[Shape], Axes | None]
    shapes: str
    dtypes: tuple[str, ...]


WHOLE = ("int64", "int32", "float32", "float64")
"""Types of sizes: float16 would round those over 2048."""
_FUNCTIONS: Mapping[FunctionName, _Function] = {
    "width_height": _Function(lambda at, shape: _repeated((at.width, at.height), shape), _sizes_axes, "[N, 2]", WHOLE),
    "height_width": _Function(lambda at, shape: _repeated((at.height, at.width), shape), _sizes_axes, "[N, 2]", WHOLE),
    "ones": _Function(lambda _, shape: np.ones(shape), _ones_axes, "[N, 2], or N and fixed sizes", (*WHOLE, "float16")),
    "mask": _Function(_mask, _mask_axes, "[N, H, W]", (*WHOLE, "float16", "uint8", "bool")),
}


def _repeated(pair: tuple[int, int], shape: Sequence[int]) -> Tensor:
    return np.broadcast_to(np.array(pair), shape)


def make_inputs(
    others: Mapping[str, OtherInput], rows: int, size: tuple[int, int], frames: Sequence[Frame] = ()
) -> dict[str, Tensor]:
    """Return the values of a batch's inputs beside the image; `size` is (height, width) of its tensors.

    `frames` say where the images of its first rows lie; the others fill their tensors.
    """
    batch = _Batch(rows, *size, frames)
    sizes = {"N": batch.rows, "H": batch.height, "W": batch.width}
    made = {}
    for name, one in others.items():
        function = _FUNCTIONS[one.function]
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in function.axes(one.shape) or ()]
        made[name] = np.ascontiguousarray(function.make(batch, shape), one.dtype)
    return made


def mistake(name: str, one: OtherInput, size: tuple[int | None, int | None]) -> str:
    """What is wrong with a declared input of the model file, in a sentence; empty if its function makes it.

    `size` is (height, width) of the image's input in the file.
    """
    function = _FUNCTIONS[one.function]
    stated = f"input.others has {name}: {one.function}, but the model file's input {name}"
    if one.dtype.name not in function.dtypes:
        return f"{stated} is {one.dtype.name}; {one.function} gives {', '.join(function.dtypes)}"
    known = {"N": 1, "H": size[0], "W": size[1]}
    axes = function.axes(one.shape)
    sizes = [known[axis] if isinstance(axis, str) else axis for axis in axes or ()]
    if axes is None or any(found not in (None, made) for found, made in zip(one.shape, sizes, strict=True)):
        return f"{stated} has the shape {_shown(one.shape)}; {one.function} gives {function.shapes}"
    return ""


def fits_function(name: FunctionName, one: OtherInput) -> bool:
    """Whether another function makes an input of this shape and type too."""
    function = _FUNCTIONS[name]
    return one.dtype.name in function.dtypes and function.axes(one.shape) is not None


def undeclared(names: Sequence[str]) -> str:
    """What to set for inputs that tta.yaml does not declare, in a sentence."""
    entries = ", ".join(f"{name}: {LIKELY.get(name, '...')}" for name in names)
    each = "it" if len(names) == 1 else "each of them"
    return (
        f"the model file also takes {', '.join(names)}, which tta.yaml does not declare; set input.others: "
        f"{{{entries}}}, with one of {', '.join(_FUNCTIONS)} for {each}"
    )


def _shown(shape: Shape) -> str:
    return "[" + ", ".join("any" if axis is None else str(axis) for axis in shape) + "]"
