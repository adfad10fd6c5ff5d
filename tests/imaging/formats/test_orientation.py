"""Orientation of EXIF blocks equals Pillow's, at bounded cost."""

import struct
import tracemalloc
import warnings
from functools import cache

import pytest
from PIL import Image

from tests.imaging.formats.test_plugins import heic, with_segments
from tests.imaging.formats.test_png import png, xmp
from tests.support.corpus import by_pillow
from tests.support.patterns import noise, smooth
from tta_server.errors import TTAError
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.imaging.formats.orientation import from_metadata
from tta_server.views.geometry import Size

STARTS = [b"II*\0", b"MM\0*", b"II\0*", b"MM*\0"]


def block(start, entries, rest=b""):
    """Return a TIFF block with one directory; entries are (tag, type, count, four bytes)."""
    order = "<" if start[:2] == b"II" else ">"
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return start + struct.pack(order + "IH", 8, len(entries)) + body + bytes(4) + rest


def by_pillow_s_parser(data):
    tags = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tags.load(b"Exif\0\0" + data)
        except Exception:  # noqa: BLE001 - an invalid block has no orientation
            return 1
        found = tags.get(274, 1)
    return int(found) if found in range(1, 9) else 1


VALUES = {
    "short": (3, 1, "Hxx", 6),
    "long": (4, 1, "I", 6),
    "signed short": (8, 1, "hxx", 8),
    "signed long": (9, 1, "i", 3),
    "float": (11, 1, "f", 6),
    "byte": (1, 1, "Bxxx", 6),
    "text": (2, 1, "Bxxx", 54),
    "unknown": (99, 1, "I", 6),
    "zero": (3, 1, "Hxx", 0),
    "nine": (3, 1, "Hxx", 9),
    "negative": (8, 1, "hxx", -6),
    "none": (3, 0, "Hxx", 6),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("place", [0, 64, 700, 2999])
def test_orientation_anywhere_in_a_long_directory_equals_pillow(start, place):
    order = "<" if start[:2] == b"II" else ">"
    entries = [(1000 + number, 3, 1, bytes(4)) for number in range(3000)]
    entries[place] = (274, 3, 1, struct.pack(order + "Hxx", 6))
    for data in (block(start, entries), block(start, entries[: place + 1])[:-4], block(start, entries)[:-5]):
        assert from_metadata(data, None) == by_pillow_s_parser(data)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("value", VALUES)
def test_orientation_of_any_type_equals_pillow(start, value):
    kind, count, code, number = VALUES[value]
    order = "<" if start[:2] == b"II" else ">"
    data = block(start, [(271, 3, 1, bytes(4)), (274, kind, count, struct.pack(order + code, number))])
    for cut in (len(data), len(data) - 4, len(data) - 17, 12, 9):
        assert from_metadata(data[:cut], None) == by_pillow_s_parser(data[:cut]), cut


@pytest.mark.parametrize("values", [(6, 3), (3, 6), (9, 6)])
def test_the_first_of_two_orientations_counts(values):
    data = block(b"II*\0", [(274, 3, 1, struct.pack("<Hxx", value)) for value in values])
    assert from_metadata(data, None) == (values[0] if values[0] < 9 else 1)


@pytest.mark.parametrize(("exif", "found"), [(None, 8), (0, 1), (6, 6), (9, 1)])
def test_xmp_counts_if_exif_has_no_orientation(exif, found):
    entries = [] if exif is None else [(274, 3, 1, struct.pack("<Hxx", exif))]
    assert from_metadata(block(b"II*\0", entries), xmp(8)) == found


def greedy(size=2_000_000):
    """Return a block of 60,000 tags, each of which claims the whole block."""
    return block(b"II*\0", [(tag, 7, size, struct.pack("<I", 8)) for tag in range(60_000)], bytes(size))


@cache
def files():
    picture = Image.fromarray(smooth(Size(60, 40)))
    segments = [(0xE1, b"Exif\0\0" + greedy()[at : at + 60_000]) for at in range(0, 2_000_000, 60_000)]
    return {
        "jpeg": with_segments(by_pillow(picture, "JPEG"), segments),
        "cmyk jpeg": with_segments(by_pillow(picture.convert("CMYK"), "JPEG"), segments),
        "png": png(noise(Size(60, 40)), 8, 2, {b"eXIf": greedy()}),
        "webp": by_pillow(picture, "WEBP", exif=b"Exif\0\0" + greedy()),
    }


@pytest.mark.parametrize("name", ["jpeg", "cmyk jpeg", "png", "webp"])
def test_tags_that_each_claim_the_whole_file_need_little_memory(name):
    data = files()[name]
    tracemalloc.start()
    try:
        pixels = decode(data, read_header(data, Limits()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pixels.shape == (40, 60, 3)
    assert peak < 12 * len(data)


@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_tags_that_each_claim_the_whole_file_are_refused_if_a_plugin_would_read_them(form):
    picture, mild = Image.fromarray(smooth(Size(60, 40))), block(b"II*\0", [(271, 7, 2_000_000, struct.pack("<I", 26))])
    exif = b"Exif\0\0" + mild + bytes(2_100_000)
    data = heic(picture, exif=exif) if form == "HEIC" else by_pillow(picture, form, exif=exif)
    assert read_header(data, Limits()).orientation == 1
    at = data.index(mild)
    changed = data[:at] + greedy(1_300_000)[: len(mild) + 2_100_000] + data[at + len(mild) + 2_100_000 :]
    with pytest.raises(TTAError, match="broken"):
        read_header(changed, Limits())


def test_a_file_full_of_exif_signatures_is_refused():
    data = by_pillow(Image.fromarray(smooth(Size(60, 40))), "AVIF")
    with pytest.raises(TTAError, match="broken"):
        read_header(data + b"II*\0" * 1_000_000, Limits())
