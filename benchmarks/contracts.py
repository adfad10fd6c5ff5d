"""Runs every recorded contract of `tests/contracts`: `init`, load, predict, plain and with flips. Prints the slowest.

Exits with 1 if one fails, or takes longer than its target.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.contracts.contract import Asked, Contract, Entry, Refused
from tests.contracts.table import CONTRACTS
from tta_server.errors import TTAError

TARGET_S = 5.0
"""A contract takes at most this long."""
KINDS = {Contract: "answered", Refused: "refused by name", Asked: "asked"}
console = Console()


def run(contract: Entry) -> tuple[float, str]:
    """Seconds, and what went wrong, if anything did."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            contract.check(Path(folder))
            problem = ""
        except (AssertionError, TTAError) as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        return time.perf_counter() - started, problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slowest", type=int, default=5, help="how many to print")
    options = parser.parse_args()
    found = [(*run(contract), contract) for contract in CONTRACTS]
    table = Table("contract", "what", "seconds", "failed")
    for seconds, problem, contract in sorted(found, key=lambda each: -each[0])[: options.slowest]:
        table.add_row(contract.name, KINDS[type(contract)], f"{seconds:.2f}", problem)
    console.print(table)
    for kind, words in KINDS.items():
        console.print(f"{sum(isinstance(each, kind) for each in CONTRACTS)} {words}")
    typed = [each for each in CONTRACTS if isinstance(each, Contract) and not each.typed and not each.options]
    console.print(f"{len(typed)} of those answered need nothing beyond the file and what lies beside it")
    failed = [contract.name for _, problem, contract in found if problem]
    slow = [contract.name for seconds, _, contract in found if seconds > TARGET_S]
    for words, names in (("failed", failed), (f"over {TARGET_S:g} s", slow)):
        console.print(f"{words}: {', '.join(names) or 'none'}")
    return 1 if failed or slow else 0


if __name__ == "__main__":
    sys.exit(main())
