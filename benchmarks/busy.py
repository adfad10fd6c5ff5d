"""Burns cores for a while: what tests that depend on time must stand beside.

    .venv/bin/python benchmarks/busy.py --cores 2 --seconds 600

Each process ends by itself when its time is up, or when the one that started it has gone.
"""

import argparse
import multiprocessing
import os
import time

STEP = 100_000
"""Rounds between two looks at the clock: about 5 ms."""


def burn(seconds: float, parent: int) -> None:
    """Ends after that time, or when its parent is another."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and os.getppid() == parent:
        for _ in range(STEP):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="processes that burn (all cores)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    asked = parser.parse_args()
    started = [
        multiprocessing.Process(target=burn, args=(asked.seconds, os.getpid()), daemon=True) for _ in range(asked.cores)
    ]
    for process in started:
        process.start()
    print(f"{asked.cores} processes burn for {asked.seconds:g} s")
    for process in started:
        process.join()


if __name__ == "__main__":
    main()
