"""The costliest files of each format take bounded CPU time (not wall-clock time)."""

import contextlib

import pytest
from PIL import Image

from tests.imaging.formats.test_png import peak
from tests.support.corpus import by_pillow
from tests.support.costly import jpeg, segment
from tests.support.worst import MAX_SECONDS, TEAL, WORST, noisy, seconds
from tta_server.api.requests import LARGE_JPEG_BYTES
from tta_server.errors import TTAError
from tta_server.imaging.decoding import MAGIC, Limits, read_header

SLOW_MACHINE = 4
"""Factor by which a machine may be slower than the reference."""

REFUSED = {"TIFF of overlapping tiles", "TIFF of tags", "TIFF of JPEG of the most scans"}


def test_every_format_has_its_worst_files():
    assert {name.split()[0] for name in WORST} == set(MAGIC)


def header_or_refusal(data):
    with contextlib.suppress(TTAError):
        read_header(data, Limits(), TEAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORST)
def test_the_worst_file_takes_bounded_time(name):
    data = WORST[name]()
    header, pixels, end = seconds(data)
    assert end.startswith("refused" if name in REFUSED else "decoded"), end
    assert header < 0.1 * SLOW_MACHINE
    assert pixels < MAX_SECONDS * SLOW_MACHINE
    assert peak(lambda: header_or_refusal(data)) < 2 * len(data) + 8_000_000


SMALL = by_pillow(Image.fromarray(noisy(8, 8)), "JPEG")
PROGRESSIVE = by_pillow(Image.fromarray(noisy(8, 8)), "JPEG", progressive=True)
ODD = jpeg(0, (8, 8)).replace(b"\1\x11\0\2\x11\0\3\x11", b"\1\x41\0\2\x14\0\3\x11")
"""A subsampling that only Pillow's parser reads."""

HEADS = {
    "EXIF": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(65_000)) * 15,
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation " * 3800) * 15,
    "segments": segment(0xE1, b"Exif\0\0" + bytes(900)) * 1000,
    "fill bytes": b"\xff" * 900_000,
    "quantization": segment(0xDB, (b"\0" + b"\1" * 64) * 480),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 15,
}
TAILS = {"zeros": b"\xff\0" * 490_000, "fill": b"\xff" * 990_000, "scans": b"\xff\xd9" + b"\xff\xda" * 490_000}
ON_LOOP = {name: SMALL[:2] + head + SMALL[2:] for name, head in HEADS.items()}
ON_LOOP |= {f"{name}, odd": ODD[:2] + head + ODD[2:] for name, head in HEADS.items()}
ON_LOOP |= {name: PROGRESSIVE[:-2] + tail for name, tail in TAILS.items()}


@pytest.mark.parametrize("name", ON_LOOP)
def test_the_header_of_a_jpeg_on_the_event_loop_takes_milliseconds(name):
    """The best of five runs counts, since other threads may run."""
    assert len(ON_LOOP[name]) <= LARGE_JPEG_BYTES
    assert min(seconds(ON_LOOP[name])[0] for _ in range(5)) < 0.005 * SLOW_MACHINE
