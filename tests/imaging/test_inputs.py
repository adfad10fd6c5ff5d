"""Images of Python callers are copied, or refused in one clear sentence."""

import io
import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support import pictures
from tests.support.serving import PATIENCE
from tta_server.errors import InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import copy_image

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
LIMITS = Limits(max_bytes=1000, max_pixels=100)


class Readonly:
    """A writeable array, and a read-only view of its memory."""

    def __init__(self) -> None:
        self.base = PIXELS.copy()
        self.array = self.base.view()
        self.array.setflags(write=False)


# ---- accepted images are copied ----


def test_an_array_is_not_affected_by_later_writes() -> None:
    given = PIXELS.copy()
    own = copy_image(given, LIMITS)
    given[:] = 0
    assert np.array_equal(own, PIXELS)


def test_a_read_only_view_is_copied_too() -> None:
    given = Readonly()
    own = copy_image(given.array, LIMITS)
    given.base[:] = 0
    assert np.array_equal(own, PIXELS)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS[:, ::-1],
        np.asfortranarray(PIXELS),
        np.broadcast_to(PIXELS[:1, :1], (3, 4, 3)),
        PIXELS[::2, 1:3],
        np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(4, 5, 3),
    ],
)
def test_an_array_may_have_any_strides(given: np.ndarray) -> None:
    own = copy_image(given, LIMITS)
    assert isinstance(own, np.ndarray)
    assert own.flags.c_contiguous
    assert own.flags.owndata
    assert np.array_equal(own, given)


@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))], ids=["bytearray", "memoryview"])
def test_a_buffer_is_not_affected_by_later_writes(kind: Any) -> None:
    given = kind(b"some file")
    own = copy_image(given, LIMITS)
    given[0:4] = b"none"
    assert own == b"some file"


def test_a_strided_buffer_is_copied_as_its_bytes() -> None:
    assert copy_image(memoryview(b"s-o-m-e")[::2], LIMITS) == b"some"


def entry(path: Path) -> os.DirEntry[str]:
    with os.scandir(path.parent) as found:
        return next(one for one in found if one.name == path.name)


@pytest.mark.parametrize("kind", [str, Path, entry])
def test_a_path_may_be_of_any_kind(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "pictüre"
    path.write_bytes(b"some file")
    assert copy_image(kind(path), LIMITS) == b"some file"


# ---- refusals ----


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        copy_image(path, LIMITS)


def test_a_large_limit_needs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"some file")
    assert copy_image(path, Limits(max_bytes=1 << 60)) == b"some file"


def test_an_endless_device_is_too_large() -> None:
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        copy_image("/dev/zero", LIMITS)


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="a pipe without a writer"):
        copy_image(tmp_path / "pipe", LIMITS)


@pytest.mark.parametrize("early", [b"", b"some "])
def test_a_pipe_is_read_to_its_end(early: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, early)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(copy_image, f"/dev/fd/{reading}", LIMITS)
        os.write(writing, b"file")
        os.close(writing)
        assert found.result(PATIENCE) == early + b"file"
    os.close(reading)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "an image must be a path.* not NoneType"),
        (5, "not int"),
        (array("B", b"1"), "not array"),
        ([PIXELS, PIXELS], "one image at a time"),
        ([[[1, 2, 3]]], "one image at a time"),
        (io.BytesIO(b"some"), r"file\.read\(\)"),
        (Image.fromarray(PIXELS), r"PIL image.*exif_transpose"),
        (np.ma.masked_array(PIXELS), r"filled\(0\)"),
        (PIXELS.astype(np.float32), "uint8, values from 0 to 255, not float32"),
        (PIXELS.astype(np.uint16), "not uint16"),
        (PIXELS.astype(np.int8), "not int8"),
        (PIXELS > 3, "not bool"),
        (PIXELS.astype(object), "not object"),
        (PIXELS[..., 0], r"shape \(height, width, 3\), not \(4, 5\); repeat a grey"),
        (PIXELS.transpose(2, 0, 1), r"not \(3, 4, 5\); the channels come last"),
        (np.zeros((4, 5, 4), np.uint8), "drop the alpha"),
        (np.zeros((4, 5, 1), np.uint8), r"not \(4, 5, 1\)"),
        (PIXELS[None], r"not \(1, 4, 5, 3\); pass one image"),
        (PIXELS.ravel(), r"array\.tobytes\(\)"),
        (np.zeros((), np.uint8), r"not \(\)"),
        (np.zeros((0, 5, 3), np.uint8), r"not \(0, 5, 3\)"),
        (memoryview(PIXELS), "one dimension"),
        (memoryview(array("i", [1, 2])), "one dimension"),
        ("null\0byte", "is not a path"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:12],
)
def test_an_invalid_image_is_refused_in_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        copy_image(given, LIMITS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_released_buffer_is_refused() -> None:
    given = memoryview(b"some")
    given.release()
    with pytest.raises(InvalidInput, match="released"):
        copy_image(given, LIMITS)


def test_an_array_that_is_too_large_is_refused_before_it_is_copied() -> None:
    huge = np.broadcast_to(np.uint8(0), (10**6, 10**6, 3))
    with pytest.raises(TooLarge, match="the limit is 100"):
        copy_image(huge, LIMITS)


def test_the_advice_for_a_pil_image_works() -> None:
    image = pictures.opened(pictures.png(5, 4))
    given = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(copy_image(given, LIMITS), given)
