"""The scheduler's laws over hundreds of thousands of random histories in virtual time.

`make test-all` runs the first 20,000 of seed 0, `make test` the first 500.

With `--pool`: the laws of device pools, over histories of these; `make test-all` runs 10,000, `make test` 500.

`--histories N --seed S --processes P`. The same seed has the same histories. On failure: the seed and the number of the
history, the law it breaks, and the smallest history found that breaks it too. Exit code 1 then.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.support import device_histories, histories
from tests.support.device_laws import DeviceLaw
from tests.support.laws import Law
from tests.support.shrinking import shrink

AT_ONCE = 200
"""Histories that a process runs before it reports."""


def parts(numbers: range) -> Iterator[range]:
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        yield range(first, min(first + AT_ONCE, numbers.stop))


class Search:
    """One process's part: picklable, so that it can be sent there."""

    def __init__(self, seed: str, pool: bool) -> None:
        self.seed = seed
        self.pool = pool

    def __call__(self, some: range) -> tuple[range, tuple[int, str] | None]:
        find = device_histories.find_violation if self.pool else histories.find_violation
        found = find(self.seed, some)
        return some, None if found is None else (found[0], str(found[1]))


def run(search: Search, numbers: range, processes: int, console: Console) -> tuple[int, str] | None:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("histories"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, multiprocessing.Pool(processes, lower_priority) as pool:
        task = progress.add_task("", total=len(numbers))
        for some, found in pool.imap_unordered(search, parts(numbers)):
            progress.advance(task, len(some))
            if found:
                return found
    return None


def lower_priority() -> None:
    os.nice(10)


def explain(seed: str, number: int, pool: bool, console: Console) -> None:
    home = device_histories if pool else histories
    history = home.drawn(seed, number)
    if home.violation_of(history) is None:
        console.print("It holds when the history runs again: decisions depend on something other than the history.")
        return
    console.print("shrinking the history ...")
    small = shrink(history, home.violation_of)
    console.print(f"{home.violation_of(small)}\n\n{small!r}\n", soft_wrap=True, highlight=False)
    kind = "--pool " if pool else ""
    console.print(f"benchmarks/laws.py {kind}--seed {seed} --start {number} --histories 1", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=200_000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--start", type=int, default=0, help="number of the first history")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--pool", action="store_true", help="the laws of device pools")
    args = parser.parse_args()
    console, begun = Console(), time.monotonic()
    numbers = range(args.start, args.start + args.histories)
    found = run(Search(args.seed, args.pool), numbers, args.processes, console)
    if found:
        console.print(f"[red]seed {args.seed}, history {found[0]} breaks a law[/]\n{found[1]}", highlight=False)
        explain(args.seed, found[0], args.pool, console)
        return 1
    one_of = f"one of {histories.LONG_QUEUES} with a long queue"
    kind = f"one of {device_histories.CAPACITY} at a steady rate" if args.pool else one_of
    console.print(
        f"seed {args.seed}: {args.histories} histories, {kind}, kept {len(DeviceLaw if args.pool else Law)} laws; "
        f"{time.monotonic() - begun:.0f} s with {args.processes} processes",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
