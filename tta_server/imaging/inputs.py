"""Images as Python callers pass them: paths, bytes or arrays, copied before use."""

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

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"],
)
"""Of files that are taken for images where a folder or an archive holds others too."""

CHUNK_BYTES = 1 << 20
"""Bytes read from a file at a time."""

ACCEPTED = "an image must be a path, the bytes of a file, or an upright RGB array (height, width, 3) of uint8"


def copy_image(image: object, limits: Limits) -> bytes | NDArray[np.uint8]:
    """Return encoded bytes, or a copy of the pixels (H, W, 3) uint8, that later changes by the caller do not affect.

    Raises InvalidInput for another type or shape, TooLarge, and OSError for a file that can't be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_file(image, limits)
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return _copy_bytes(image)
    if isinstance(image, np.ndarray):
        check_pixels(image, limits)
        return np.array(image, np.uint8, order="C")
    raise InvalidInput(_type_hint(image))


def read_file(path: str | os.PathLike[Any], limits: Limits) -> bytes:
    """Read a file, device or pipe of at most `max_bytes`; raise InvalidInput, TooLarge or OSError."""
    try:
        with open(os.fsdecode(path), "rb", opener=_open_nonblocking) as file:
            data = _read_up_to(file, limits.max_bytes + 1)
    except ValueError as error:  # a null byte, say
        raise InvalidInput(f"{str(path)[:64]!r} is not a path: {error}") from None
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the file has more than {limits.max_bytes} bytes, the limit for an image (--max-bytes)")
    return data


def unreadable(error: OSError) -> str:
    """Return the reason, as the end of a sentence that begins with the file's path."""
    return f"can't be read: {error.strerror or error}"


def _open_nonblocking(path: str, flags: int) -> int:
    """Open without blocking: a pipe that has no writer would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_up_to(file: IO[bytes], max_bytes: int) -> bytes:
    """Return the first `max_bytes` bytes, read in chunks: one large read allocates its whole buffer in advance."""
    is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    chunks = [_first_pipe_byte(file.fileno())] if is_pipe else []
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(file.fileno(), True)
    size = sum(map(len, chunks))
    while size < max_bytes and (chunk := file.read(min(CHUNK_BYTES, max_bytes - size))):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _first_pipe_byte(pipe: int) -> bytes:
    """Return one byte, or none if the writer has sent none yet; raise InvalidInput for a pipe without a writer."""
    try:
        first = os.read(pipe, 1)
    except BlockingIOError:
        first = None
    if first == b"":
        raise InvalidInput("the file is a pipe without a writer; start the writer first")
    return first or b""


def _copy_bytes(image: bytearray | memoryview) -> bytes:
    try:
        if isinstance(image, memoryview) and (image.ndim, image.itemsize) != (1, 1):
            raise InvalidInput(
                f"a memoryview must have one dimension of bytes, not shape {image.shape} of {image.format}; {ACCEPTED}"
            )
        return bytes(image)
    except ValueError:
        raise InvalidInput(f"the memoryview is already released; {ACCEPTED}") from None


def check_pixels(image: object, limits: Limits) -> Size:
    """Return the size of an array (H, W, 3) of uint8; raise InvalidInput for anything else, and TooLarge."""
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        raise InvalidInput(_type_hint(image))
    if image.dtype != np.uint8:
        raise InvalidInput(f"an array image must have dtype uint8, values from 0 to 255, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        hint = _shape_hint(image.shape)
        raise InvalidInput(f"an array image must have shape (height, width, 3), not {image.shape}{hint}")
    size = Size(image.shape[1], image.shape[0])
    check_area(size, limits)
    return size


def check_area(size: Size, limits: Limits) -> None:
    """Raise TooLarge for more than `max_pixels` pixels."""
    if size.area > limits.max_pixels:
        raise TooLarge(f"the image is {size}, {size.area} pixels; the limit is {limits.max_pixels} (--max-pixels)")


def _shape_hint(shape: tuple[int, ...]) -> str:
    """Return how to convert an array of that shape, as the end of a sentence."""
    if len(shape) == 1:
        return "; pass the bytes of a file as bytes: array.tobytes()"
    if len(shape) == 2:
        return "; repeat a grey image: np.stack([array] * 3, axis=2)"
    if len(shape) == 3 and shape[0] == 3:
        return "; the channels come last: array.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the alpha channel: array[..., :3]"
    if len(shape) == 4:
        return "; pass one image at a time"
    return ""


def _type_hint(image: object) -> str:
    """Return what is accepted instead of that type of image."""
    if isinstance(image, Image.Image):
        return 'convert a PIL image to an array: np.asarray(ImageOps.exif_transpose(image).convert("RGB"))'
    if isinstance(image, np.ma.MaskedArray):
        return "a masked array is not supported; fill it: array.filled(0)"
    if isinstance(image, list | tuple):
        return f"{ACCEPTED}; pass one image at a time, not {type(image).__name__}"
    if hasattr(image, "read"):
        return f"{ACCEPTED}; for an open file, pass file.read()"
    return f"{ACCEPTED}, not {type(image).__name__}"
