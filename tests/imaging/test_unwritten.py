"""No pixel is answered that no decoder wrote: memory that malloc fills in two ways shows in no answer."""

import os
import pickle
import subprocess
import sys

import pytest

from tests.imaging.corpus import LONGER, corpus

FILLED = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",  # or large blocks would come from the kernel, as zeros
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_ARENA_MAX": "1",
}


def decoding(files, fill, module="tta_server.imaging.decoding"):
    """A process whose malloc fills blocks with `fill` when they are freed, and with its complement when they are handed
    out; it prints what each file decodes to."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.imaging.corpus", files, module],
        env={**os.environ, **FILLED, "MALLOC_PERTURB_": str(fill)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
@pytest.mark.timeout(120 * LONGER)
def test_pixels_do_not_depend_on_what_memory_held(tmp_path):
    files = corpus()
    (tmp_path / "files").write_bytes(pickle.dumps(files))
    processes = [decoding(tmp_path / "files", fill) for fill in (85, 170)]
    first, second = (process.communicate()[0].splitlines() for process in processes)
    assert len(first) == len(second) == len(files)
    assert [name for (name, _), a, b in zip(files, first, second, strict=True) if a != b] == []
    meant = {"InvalidInput", "UnsupportedMedia", "TooLarge"}
    assert {found for found in first if not found.startswith("(")} <= meant
    whole = [(name, found) for (name, _), found in zip(files, first, strict=True) if "|" not in name]
    assert [name for name, found in whole if "uint8" not in found] == []
