"""Random and changed files raise only errors of this package."""

import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tests.imaging.test_decoding import SIZE, encoded, exif, hostile, png_chunk, png_header
from tests.support.corpus import heic
from tests.support.patterns import noise, smooth
from tta_server.errors import TTAError
from tta_server.imaging.decoding import MAGIC, Limits, decode, read_header
from tta_server.views.geometry import Size

STARTS = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WEBP": b"RIFF\x40\0\0\0WEBP",
    "BMP": b"BM",
    "TIFF": b"II*\0",
    "GIF": b"GIF89a",
    "AVIF": b"\0\0\0\x1cftypavif",
    "HEIC": b"\0\0\0\x1cftypheic",
}


def drawn():
    image = Image.fromarray(smooth(Size(40, 30)))
    ImageDraw.Draw(image).ellipse((5, 5, 20, 20), fill=(250, 10, 10))
    return image


VALID = [encoded(drawn(), form, exif=exif(6)) for form in ("JPEG", "PNG", "TIFF", "WEBP")]
VALID += [encoded(drawn(), "BMP"), encoded(drawn().convert("P"), "PNG"), encoded(drawn().convert("CMYK"), "JPEG")]
VALID += [encoded(drawn().convert("P"), "GIF"), encoded(drawn(), "AVIF"), *heic(drawn()).values()]
VALID += [encoded(drawn(), "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "packbits")]
VALID += [
    cv2.imencode(form, np.arange(1200, dtype=np.uint16).reshape(30, 40))[1].tobytes() for form in (".png", ".tiff")
]


def reads_or_refuses(data):
    """Decode with small limits, so that a huge size costs little; the error, if any, is one sentence."""
    try:
        header = read_header(data, Limits(max_pixels=1_000_000))
        pixels = decode(data, header)
    except TTAError as error:
        sentence = str(error)
        assert sentence
        assert "\n" not in sentence
    else:
        assert pixels.shape == (header.size.height, header.size.width, 3)
        assert pixels.dtype == np.uint8


def test_every_format_has_a_signature_here():
    assert STARTS.keys() == MAGIC.keys()


@hostile
@pytest.mark.parametrize("form", STARTS)
@given(tail=st.binary(max_size=200))
def test_random_bytes_behind_a_signature(form, tail):
    reads_or_refuses(STARTS[form] + tail)


@hostile
@pytest.mark.parametrize("data", VALID, ids=range(len(VALID)))
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), near=st.booleans())
def test_valid_files_with_changed_bytes(data, changes, near):
    broken = bytearray(data)
    reach = min(len(data), 160) if near else len(data)  # `near` changes the header
    for place, value in changes:
        broken[min(int(place * reach), len(data) - 1)] = value
    reads_or_refuses(bytes(broken))


@hostile
@pytest.mark.parametrize("data", VALID, ids=range(len(VALID)))
@given(start=st.floats(0, 1), length=st.integers(1, 40), tail=st.binary(max_size=20))
def test_valid_files_with_a_part_replaced(data, start, length, tail):
    cut = int(start * len(data))
    reads_or_refuses(data[:cut] + tail + data[cut + length :])


@hostile
@given(depth=st.sampled_from([1, 2, 4, 8, 16]), kind=st.sampled_from([0, 2, 3, 4, 6]), rows=st.binary(max_size=64))
def test_any_png_header(depth, kind, rows):
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    reads_or_refuses(png_header(3, 2, depth, kind) + body)


@hostile
@given(st.binary(max_size=60))
def test_any_exif(junk):
    for form in ("JPEG", "PNG", "WEBP"):
        reads_or_refuses(encoded(noise(SIZE), form, exif=b"Exif\0\0" + junk))
