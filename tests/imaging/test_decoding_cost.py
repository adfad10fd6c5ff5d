"""The costliest files of each format take bounded memory; benchmarks/decoding.py measures their time."""

import contextlib

import pytest

from tests.imaging.formats.test_png import peak
from tests.support.worst import ON_LOOP, TEAL, WORST, seconds
from tta_server.api.requests import LARGE_JPEG_BYTES
from tta_server.errors import TTAError
from tta_server.imaging.decoding import MAGIC, Limits, read_header

REFUSED = {"TIFF of overlapping tiles", "TIFF of tags", "TIFF of JPEG of the most scans"}


def test_every_format_has_its_worst_files():
    assert {name.split()[0] for name in WORST} == set(MAGIC)


def header_or_refusal(data):
    with contextlib.suppress(TTAError):
        read_header(data, Limits(), TEAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORST)
def test_the_worst_file_takes_bounded_memory(name):
    data = WORST[name]()
    _, _, end = seconds(data)
    assert end.startswith("refused" if name in REFUSED else "decoded"), end
    assert peak(lambda: header_or_refusal(data)) < 2 * len(data) + 8_000_000


@pytest.mark.parametrize("name", ON_LOOP)
def test_the_header_of_a_jpeg_on_the_event_loop_is_read_or_refused(name):
    assert len(ON_LOOP[name]) <= LARGE_JPEG_BYTES
    header_or_refusal(ON_LOOP[name])
