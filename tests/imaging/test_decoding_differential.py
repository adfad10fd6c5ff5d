"""Intact and damaged files of all formats equal Pillow, OpenCV and tifffile, or are refused."""

from collections import Counter

import numpy as np
import pytest

from tests.support.corpus import LONGER, SIZES, common, damaged, layouts
from tests.support.differential import EQUAL, LIMITS, UNKNOWN, WRONG, compare
from tta_server.errors import InvalidInput
from tta_server.imaging.decoding import Rendering, decode, read_header

hostile = pytest.mark.filterwarnings("ignore")  # readers warn about damaged files
SEED = 11


def files(size, cells, number):
    source = np.random.default_rng(SEED)
    for name, data in [*common(size).items(), *layouts(size, cells)]:
        yield from damaged(name, data, source, number)


@hostile
@pytest.mark.timeout(120 * LONGER)
def test_damaged_files_are_refused_or_equal():
    outcomes = [(name, compare(data)) for name, data in files(SIZES[0], 100, 6 * LONGER)]
    assert [name for name, outcome in outcomes if outcome == WRONG] == []
    counts = Counter(outcome for _, outcome in outcomes)
    assert counts[EQUAL] > len(outcomes) / 5
    assert counts[UNKNOWN] < len(outcomes) / 20


@pytest.mark.parametrize("size", SIZES[:2])
def test_whole_files_are_equal(size):
    assert {name: found for name, data in common(size).items() if (found := compare(data)) != EQUAL} == {}


FILES = common(SIZES[0]) | dict(layouts(SIZES[0], 12))


@hostile
@pytest.mark.parametrize("name", FILES)
def test_a_file_truncated_by_single_bytes_is_broken_or_equal(name):
    """Bytes behind the pixels may be missing; no pixel may be invented."""
    data, rendering = FILES[name], Rendering(levels="auto")
    whole = decode(data, read_header(data, LIMITS, rendering), rendering)
    for missing in range(1, 70):
        short = data[:-missing]
        try:
            found = decode(short, read_header(short, LIMITS, rendering), rendering)
        except InvalidInput:
            continue
        np.testing.assert_array_equal(found, whole, err_msg=f"{missing} bytes are missing")
