"""Bounds on the scans and segments of a JPEG."""

import contextlib
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.support.corpus import by_pillow
from tests.support.costly import arithmetic_jpeg, jpeg, segment
from tests.support.patterns import smooth
from tta_server.errors import InvalidInput
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.imaging.formats.jpeg import MAX_SCANS, MAX_SEGMENTS
from tta_server.views.geometry import Size

SMALL = (24, 16)
PICTURE = Image.fromarray(smooth(Size(48, 32)))


def read(data):
    return decode(data, read_header(data, Limits()))


@pytest.mark.parametrize(("kind", "components"), [(0xC2, 1), (0xC2, 3), (0xC0, 3)])
@pytest.mark.parametrize("between", [b"", segment(0xFE, b"\xff\xd9"), segment(0xFE, b"a\xff\xff\xd9")])
def test_many_scans_are_refused_from_the_header(kind, components, between):
    data = jpeg(MAX_SCANS, SMALL, kind, components, between)
    with pytest.raises(InvalidInput, match=f"the JPEG image has more than {MAX_SCANS} scans"):
        read_header(data, Limits())
    with pytest.raises(InvalidInput, match="scans"):
        read_header(data[:2] + b"\xff\xff\xff" + data[2:], Limits())


def test_many_scans_of_arithmetic_coding_are_refused_from_the_header():
    with pytest.raises(InvalidInput, match=f"the JPEG image has more than {MAX_SCANS} scans"):
        read_header(arithmetic_jpeg(MAX_SCANS, SMALL), Limits())


def test_a_second_scan_of_a_whole_sequential_frame_is_never_decoded():
    """All 100,000 of them take longer than a test may."""
    data = jpeg(100_000, (2000, 2000), 0xC0, 1)
    with contextlib.suppress(InvalidInput):
        read(data)


def test_fewer_scans_equal_pillow():
    data = jpeg(MAX_SCANS - 1, SMALL)
    np.testing.assert_array_equal(read(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("progressive", [False, True])
def test_scans_behind_the_image_s_end_do_not_count(progressive):
    """A video or previews may follow a photo."""
    data = by_pillow(PICTURE, "JPEG", progressive=progressive)
    np.testing.assert_array_equal(read(data + b"\xff\xda\0\x08" * 1000), read(data))
    np.testing.assert_array_equal(read(data + by_pillow(PICTURE, "JPEG", progressive=True) * 20), read(data))


@pytest.mark.parametrize("marker", [0xE1, 0xE5, 0xFE, 0xDB])
def test_many_segments_are_refused_by_name(marker):
    data = by_pillow(PICTURE, "JPEG")
    few, many = (segment(marker, b"") * (MAX_SEGMENTS + more) for more in (-20, 20))
    assert read_header(data[:2] + few + data[2:], Limits()).size == (48, 32)
    with pytest.raises(InvalidInput, match=f"more than {MAX_SEGMENTS} segments before its pixels"):
        read_header(data[:2] + many + data[2:], Limits())


def test_many_segments_between_scans_are_refused_by_name():
    data = jpeg(MAX_SCANS - 1, SMALL, between=segment(0xFE, b"\xff\xda") * 40)
    with pytest.raises(InvalidInput, match=f"more than {MAX_SEGMENTS} segments between its scans"):
        read_header(data, Limits())


def test_fill_bytes_are_not_segments():
    exif = Image.Exif()
    exif[274] = 6
    data = by_pillow(PICTURE, "JPEG", exif=exif)
    assert read_header(data[:2] + b"\xff" * 100_000 + data[2:], Limits()).orientation == 6


def test_many_scans_in_a_tiff_are_refused():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, smooth(Size(*SMALL)), photometric="rgb", compression="jpeg", rowsperstrip=16)
    whole = buffer.getvalue()
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        tags = file.pages[0].tags
    data = jpeg(MAX_SCANS, SMALL)
    body = bytearray(whole + data)
    struct.pack_into("<I", body, tags["StripOffsets"].valueoffset, len(whole))
    struct.pack_into("<I", body, tags["StripByteCounts"].valueoffset, len(data))
    with pytest.raises(InvalidInput, match="scans"):
        read(bytes(body))
