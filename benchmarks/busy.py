"""Keep cores busy for a bounded time, as a load for tests that depend on time.

    .venv/bin/python benchmarks/busy.py --cores 2 --seconds 600

Each process ends when its time is up or its parent has ended.
"""

import argparse
import multiprocessing
import os
import time

STEP = 100_000
"""Rounds between two readings of the clock: about 5 ms."""


def burn(seconds: float, parent: int) -> None:
    """Spin for that time, or until the process has another parent."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and os.getppid() == parent:
        for _ in range(STEP):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="busy processes (all cores)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    args = parser.parse_args()
    started = [
        multiprocessing.Process(target=burn, args=(args.seconds, os.getpid()), daemon=True) for _ in range(args.cores)
    ]
    for process in started:
        process.start()
    print(f"{args.cores} busy processes for {args.seconds:g} s")
    for process in started:
        process.join()


if __name__ == "__main__":
    main()
