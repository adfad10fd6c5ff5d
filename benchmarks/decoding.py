"""Checks the decoder on many image files: pixels equal to those of independent readers, refused, or wrong.

    python benchmarks/decoding.py [--cells 25000] [--runs 3] [--perturbed MODULE]
    python benchmarks/decoding.py --worst

1. One TIFF for each cell of the table of layouts, compared with the samples it was made from and with tifffile.
2. Files of all formats, whole, cut off and with bytes changed, compared with Pillow, OpenCV and tifffile.
3. The same files in two processes whose malloc fills memory differently (MALLOC_PERTURB_ 85 and 170): pixels must be
   equal, or memory was read that the decoder did not write.

Exits with 1 if a file of 1 or 2 is wrong or one of 3 differs. `--perturbed` names another decoder's module for 3.
`--worst` prints instead what the costliest known file of each format costs at the default limits, and exits with 1 if
one takes more than 3 seconds of a CPU, or the header of a JPEG that is read on the event loop more than 5 ms.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from tests.imaging.test_decoding_memory import digests
from tests.support.corpus import corpus
from tests.support.differential import EQUAL, LEVELS, WRONG, compare, levels_seen
from tests.support.layouts import as_rgb, by_tifffile, table, values, written
from tests.support.worst import MAX_ON_LOOP_MS, MAX_SECONDS, ON_LOOP, WORST, seconds
from tta_server.imaging.decoding import Limits, Rendering, decode, read_header


def cells(number: int) -> Counter[str]:
    """Decode TIFFs of that many random cells of the table of layouts; counts by outcome."""
    found: Counter[str] = Counter()
    every = list(table())
    source = np.random.default_rng(0)
    for k in source.permutation(len(every))[:number]:
        layout = every[k]
        samples = values(layout, int(source.integers(1, 70)), int(source.integers(1, 40)), int(k))
        data = written(samples, layout)
        rendering = Rendering(levels=LEVELS)
        pixels = decode(data, read_header(data, Limits(), rendering), rendering)
        levels = levels_seen(data)
        same = np.array_equal(pixels, as_rgb(samples, layout, levels)) and np.array_equal(
            pixels, by_tifffile(data, levels)
        )
        found[EQUAL if same else WRONG] += 1
        if not same:
            print("wrong:", layout)
    return found


def damaged(files: list[tuple[str, bytes]]) -> Counter[str]:
    """Compare each file with independent readers; counts by outcome."""
    found: Counter[str] = Counter()
    for name, data in files:
        outcome = compare(data)
        found[outcome] += 1
        if outcome == WRONG:
            print("wrong:", name)
    return found


def perturbed(files: list[tuple[str, bytes]], module: str) -> tuple[list[str], Counter[str]]:
    """Returns the names of the files whose pixels differ between the two processes, and how decoding ended."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = digests(files, Path(folder), module)
    names = [name for (name, _), a, b in zip(files, first, second, strict=True) if a != b]
    return names, Counter("pixels" if found.startswith("(") else found for found in first)


def worst() -> bool:
    """Print a row for each file; returns whether all meet the target."""
    print(f"{'file':<42}{'MB':>8}{'header, ms':>12}{'pixels, s':>11}  outcome")
    most = 0.0
    for name, make in WORST.items():
        data = make()
        header, pixels, end = seconds(data)
        most = max(most, header + pixels)
        print(f"{name:<42}{len(data) / 1e6:8.2f}{header * 1000:12.1f}{pixels:11.2f}  {end[:100]}", flush=True)
    print(f"most: {most:.2f} s of a CPU (target: {MAX_SECONDS})")
    header_ms = 1000 * max(min(seconds(data)[0] for _ in range(5)) for data in ON_LOOP.values())
    print(f"a JPEG's header on the event loop, best of five, most: {header_ms:.1f} ms (target: {MAX_ON_LOOP_MS})")
    return most <= MAX_SECONDS and header_ms <= MAX_ON_LOOP_MS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=int(os.environ.get("TTA_DECODING_RUNS", "1")))
    parser.add_argument("--perturbed", default="tta_server.imaging.decoding")
    parser.add_argument("--worst", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if options.worst:
        sys.exit(not worst())
    whole = cells(options.cells)
    print("cells:", sum(whole.values()), dict(whole), flush=True)
    files = corpus(options.runs)
    torn = damaged(files)
    print("files, whole and damaged:", sum(torn.values()), dict(torn), flush=True)
    differ, ends = perturbed(files, options.perturbed)
    print("files under MALLOC_PERTURB_:", len(files), dict(ends), "differ:", len(differ))
    print(*differ[:20], sep="\n")
    print(f"wrong: {whole[WRONG] + torn[WRONG]} (target: 0); differ under MALLOC_PERTURB_: {len(differ)} (target: 0)")
    sys.exit(bool(whole[WRONG] or torn[WRONG] or differ))


if __name__ == "__main__":
    main()
