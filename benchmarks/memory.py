"""Peak memory of one 1024x1024 segmentation at K = 2 and K = 32, each in a process of its own; and the start-up time.

On one slot the peak is the memory of one view and of the merged sums. Each further slot adds up to one view's memory,
depending on how runs overlap. The image is random: only its size matters here.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS, served
from tta_server import load


def views(count: int) -> list[object]:
    """The plain view, the other seven symmetries (copied), then rotations (interpolated)."""
    symmetries = ["identity", "hflip", "vflip", {"rot90": 2}, {"rot90": 1}, {"rot90": 3}, "transpose", "antitranspose"]
    return [*symmetries, *({"rotate": angle} for angle in range(-36, 39, 3) if angle)][:count]


def print_peak(count: int, slots: int) -> None:
    """Print this process's peak after one request of that many views."""
    image = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    with load(MODELS / "nuclei", slots=slots) as model:
        answer = model.predict(image, policy=views(count), min_views="all", budget_ms=60_000)
        assert len(answer.receipt.views) == count
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def peaks(count: int, slots: int, rounds: int) -> list[float]:
    """In MB, sorted."""
    command = [sys.executable, __file__, "--views", str(count), "--slots", str(slots)]
    runs = [subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout for _ in range(rounds)]
    return sorted(float(json.loads(run)) for run in runs)


def seconds_to_ready() -> float:
    """From the command to the message `ready`, with the bundled models."""
    start = time.perf_counter()
    with served():
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, help="print the peak of one such request, in MB")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.views:
        print_peak(args.views, args.slots)
        return
    few, many = (peaks(k, args.slots, args.rounds)[args.rounds // 2] for k in (2, 32))
    ready = sorted(seconds_to_ready() for _ in range(args.rounds))[args.rounds // 2]
    table = Table("what", "found", "target")
    table.add_row("peak memory at K = 2", f"{few:.0f} MB", "")
    table.add_row("peak memory at K = 32", f"{many:.0f} MB ({many / few - 1:+.1%})", "within 5 %")
    table.add_row("start to ready", f"{ready:.1f} s", "under 10 s")
    Console().print(table)


if __name__ == "__main__":
    main()
