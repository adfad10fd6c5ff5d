"""What Python callers may give as an image, made our own before it is used."""

import os
import stat
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.views.geometry import Size

ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8]

PART = 1 << 20
"""Bytes of a file that are read at a time."""

TAKEN = "an image is a path, the bytes of a file, or an array (height, width, 3) of uint8, RGB and upright"


def own_image(image: object, limits: Limits) -> bytes | NDArray[np.uint8]:
    """An image as it was when it was given: encoded bytes, or a copy of the pixels (H, W, 3).

    Raises InvalidInput that says what is taken, TooLarge, and the system's own error for a file that can't be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_file(image, limits)
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return _own_bytes(image)
    if isinstance(image, np.ndarray):
        check_pixels(image, limits)
        return np.array(image, np.uint8, order="C")
    raise InvalidInput(_refusal(image))


def read_file(path: str | os.PathLike[Any], limits: Limits) -> bytes:
    """Never more than `max_bytes` of a file, whatever it is: a device, a pipe. Raises InvalidInput, TooLarge and
    OSError."""
    try:
        with open(os.fsdecode(path), "rb", opener=_opened) as file:
            data = _taken(file, limits.max_bytes + 1)
    except ValueError as error:  # a null byte, say
        raise InvalidInput(f"{str(path)[:64]!r} is no path: {error}") from None
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the file has more than the {limits.max_bytes} bytes that an image may have (--max-bytes)")
    return data


def unreadable(error: OSError) -> str:
    """The end of a sentence that begins with the path of the file."""
    return f"can't be read: {error.strerror or error}"


def _opened(path: str, flags: int) -> int:
    """A pipe is opened at once: one that has no writer would be waited for without end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _taken(file: IO[bytes], most: int) -> bytes:
    """The first `most` bytes, in parts: a read of so many at once would take their memory before any is there."""
    is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    parts = [_first_of_pipe(file.fileno())] if is_pipe else []
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(file.fileno(), True)
    taken = sum(map(len, parts))
    while taken < most and (part := file.read(min(PART, most - taken))):
        parts.append(part)
        taken += len(part)
    return b"".join(parts)


def _first_of_pipe(pipe: int) -> bytes:
    """A byte, or none while its writer has none yet. Raises InvalidInput for a pipe without a writer."""
    try:
        first = os.read(pipe, 1)
    except BlockingIOError:
        first = None
    if first == b"":
        raise InvalidInput("this is a pipe without a writer")
    return first or b""


def _own_bytes(image: bytearray | memoryview) -> bytes:
    try:
        if isinstance(image, memoryview) and (image.ndim, image.itemsize) != (1, 1):
            raise InvalidInput(f"a memoryview is taken if it has one dimension, of bytes, not {image.shape}; {TAKEN}")
        return bytes(image)
    except ValueError:
        raise InvalidInput(f"this memoryview is released already; {TAKEN}") from None


def check_pixels(image: object, limits: Limits) -> Size:
    """The size of an array (H, W, 3) of uint8; raises InvalidInput for anything else, and TooLarge."""
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        raise InvalidInput(_refusal(image))
    if image.dtype != np.uint8:
        raise InvalidInput(f"an array image has values of type uint8, from 0 to 255, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidInput(f"an array image has shape (height, width, 3), not {image.shape}{_advice(image.shape)}")
    size = Size(image.shape[1], image.shape[0])
    check_area(size, limits)
    return size


def check_area(size: Size, limits: Limits) -> None:
    """Raises TooLarge."""
    if size.area > limits.max_pixels:
        raise TooLarge(f"the image is {size}; at most {limits.max_pixels} pixels are taken (--max-pixels)")


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "; give the bytes of a file as bytes: array.tobytes()"
    if len(shape) == 2:
        return "; repeat a grey image: np.stack([array] * 3, axis=2)"
    if len(shape) == 3 and shape[0] == 3:
        return "; the channels come last: array.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the alpha channel: array[..., :3]"
    if len(shape) == 4:
        return "; give one image at a time"
    return ""


def _refusal(image: object) -> str:
    """What to give instead."""
    if isinstance(image, Image.Image):
        return 'give a PIL image as an array: np.asarray(ImageOps.exif_transpose(image).convert("RGB"))'
    if isinstance(image, np.ma.MaskedArray):
        return "a masked array is not taken; fill it: array.filled(0)"
    if isinstance(image, list | tuple):
        return f"{TAKEN}; give one image at a time, not {type(image).__name__}"
    if hasattr(image, "read"):
        return f"{TAKEN}; of an open file give file.read()"
    return f"{TAKEN}, not {type(image).__name__}"
