"""Decoded pixels never depend on uninitialised memory, which malloc fills with two different values."""

import os
import pickle
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.corpus import LONGER, SIZES, by_pillow, corpus
from tests.support.examples import sampled
from tests.support.patterns import smooth

FILLED = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",  # otherwise large blocks come from the kernel as zeros
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_ARENA_MAX": "1",
}


def digests(files, folder, module="tta_server.imaging.decoding"):
    """Return a digest of each decoded file from two processes.

    Their malloc fills blocks with 85 and 170 on free, and with the complement on allocation. `folder` is for temporary
    files.
    """
    (folder / "files").write_bytes(pickle.dumps(files))
    processes = []
    for fill in ("85", "170"):
        with (folder / fill).open("wb") as out:
            command = [sys.executable, "-m", "tests.support.corpus", folder / "files", module]
            filled = {**os.environ, **FILLED, "MALLOC_PERTURB_": fill}
            processes.append(subprocess.Popen(command, env=filled, stdout=out, stderr=subprocess.DEVNULL))
    assert [process.wait() for process in processes] == [0, 0]
    return [(folder / fill).read_text().splitlines() for fill in ("85", "170")]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")


@pytest.mark.timeout(120 * LONGER)
def test_pixels_do_not_depend_on_previous_memory(tmp_path):
    files = sampled(corpus())
    first, second = digests(files, tmp_path)
    assert len(first) == len(second) == len(files)
    assert [name for (name, _), a, b in zip(files, first, second, strict=True) if a != b] == []
    errors = {"InvalidInput", "UnsupportedMedia", "TooLarge"}
    assert {found for found in first if not found.startswith("(")} <= errors
    whole = [(name, found) for (name, _), found in zip(files, first, strict=True) if "|" not in name]
    assert [name for name, found in whole if "uint8" not in found] == []


def test_an_uninitialised_row_is_detected_at_every_size(tmp_path):
    files = [(str(size), by_pillow(Image.fromarray(smooth(size)), "BMP")) for size in SIZES]
    first, second = digests(files, tmp_path, "tests.support.leaky")
    assert [a != b for a, b in zip(first, second, strict=True)] == [True] * len(SIZES)
