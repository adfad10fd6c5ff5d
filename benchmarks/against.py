"""What a change costs: this checkout, or a commit, against another over HTTP, in pairs, with that one against itself.

Three servers run, of which one at a time gets requests: the other commit, the same commit again, and this checkout. In
each round all three answer one connection with one view (p50), then eight connections with eight views (answers per
second); then a fourth, fifth and sixth server are started, one after the other, and the time until each is ready is
taken. Ratios are taken within a round and exceed 1 where this checkout is better. The ratios of the commit against
itself (A/A) show the machine's noise. The target is met where the median ratio is at least 0.98, or lies within the A/A
interval from the 10th to the 90th percentile. The processor time of a server for an answer of eight views depends less
on what else runs; it has no target. Needs git, and an environment that fits both commits.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gateway import VIEWS, Case, cases, load
from benchmarks.server import DATA, ROOT, Endpoints, cpu_seconds, served

TARGET = 0.98
ALL_VIEWS = f"stop=all&min_views=all&max_views={VIEWS}&budget_ms=5000"
NAMES = ("before", "again", "here")
MODEL = "cifar10"
"""The model that servers are started with to time that."""


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A temporary git worktree of that commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def serving(tree: Path) -> Iterator[Endpoints]:
    """A server that runs that checkout's code and models."""
    with served("--models", str(tree / "models"), tree=tree) as endpoints:
        yield endpoints


def p50(port: int, case: Case, seconds: float) -> float:
    """Milliseconds of one view, one connection."""
    latencies = load(port, case, "max_views=1", 1, 1, seconds)["latencies_ms"]
    return statistics.median(latencies)  # type: ignore[arg-type]


def rate(server: Endpoints, case: Case, seconds: float) -> tuple[float, float]:
    """Answers of all views a second, eight connections; and milliseconds of a core that the server uses for each."""
    before = cpu_seconds(server.pid)
    answers = float(load(server.http[1], case, ALL_VIEWS, VIEWS, 8, seconds)["answers"])  # type: ignore[arg-type]
    return answers / seconds, (cpu_seconds(server.pid) - before) / answers * 1e3


def start(tree: Path) -> float:
    """Seconds until a server of that checkout is ready with one model, which it has measured by then."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL).symlink_to(tree / "models" / MODEL)
        began = time.perf_counter()
        with served("--models", folder, tree=tree):
            return time.perf_counter() - began


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def report(console: Console, about: str, ratios: Sequence[float], noise: Sequence[float]) -> bool:
    """Print the ratios; returns whether the target is met."""
    low, high = percentile(noise, 0.1), percentile(noise, 0.9)
    median = statistics.median(ratios)
    met = median >= TARGET or low <= median <= high
    console.print(
        f"{about}: median ratio {median:.3f} (10th to 90th percentile {percentile(ratios, 0.1):.3f} to "
        f"{percentile(ratios, 0.9):.3f}); A/A {statistics.median(noise):.3f} ({low:.3f} to {high:.3f}); target "
        f"{TARGET} or within A/A: {'met' if met else 'MISSED'}",
        highlight=False,
        soft_wrap=True,
    )
    return met


@dataclass(frozen=True)
class Figures:
    """By server name, one value a round.

    The p50 of one view in ms; answers per second with all views, and core-ms for each; seconds to start.
    """

    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    rates: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    costs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    starts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})

    def cost_ratios(self, name: str) -> list[float]:
        return [before / value for before, value in zip(self.costs["before"], self.costs[name], strict=True)]

    def start_ratios(self, name: str) -> list[float]:
        return [before / value for before, value in zip(self.starts["before"], self.starts[name], strict=True)]

    def time_ratios(self, name: str) -> list[float]:
        return [before / value for before, value in zip(self.times["before"], self.times[name], strict=True)]

    def rate_ratios(self, name: str) -> list[float]:
        return [value / before for before, value in zip(self.rates["before"], self.rates[name], strict=True)]


def measure(case: Case, commit: str, at: str, rounds: int, seconds: float) -> Figures:
    found = Figures()
    with ExitStack() as stack:
        tree = stack.enter_context(checkout(commit))
        trees = {"before": tree, "again": tree, "here": stack.enter_context(checkout(at)) if at else ROOT}
        servers = {name: stack.enter_context(serving(trees[name])) for name in NAMES}
        for server in servers.values():
            load(server.http[1], case, "max_views=1", 1, 1, 1)
        for number in range(rounds):
            order = [NAMES[(number + k) % 3] for k in range(3)]  # each comes first equally often
            for name in order:
                found.times[name].append(p50(servers[name].http[1], case, seconds))
            for name in order:
                answers, core_ms = rate(servers[name], case, seconds)
                found.rates[name].append(answers)
                found.costs[name].append(core_ms)
            for name in order:
                found.starts[name].append(start(trees[name]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the other commit")
    parser.add_argument("--at", default="", metavar="COMMIT", help="instead of this checkout")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", default="clothing")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each of a round's six measurements")
    args = parser.parse_args()
    case = next(case for case in cases(args.data) if case.model == args.model)
    found = measure(case, args.commit, args.at, args.rounds, args.seconds)
    console = Console()
    table = Table(
        f"{args.model}, {args.rounds} rounds", "one view, p50 ms", "eight views, answers/s", "core-ms", "start, s"
    )
    for name in NAMES:
        table.add_row(
            name,
            f"{statistics.median(found.times[name]):.2f}",
            f"{statistics.median(found.rates[name]):.1f}",
            f"{statistics.median(found.costs[name]):.1f}",
            f"{statistics.median(found.starts[name]):.2f}",
        )
    console.print(table)
    met = report(console, "one view", found.time_ratios("here"), found.time_ratios("again"))
    met &= report(console, "eight views", found.rate_ratios("here"), found.rate_ratios("again"))
    met &= report(console, "start", found.start_ratios("here"), found.start_ratios("again"))
    here, again = found.cost_ratios("here"), found.cost_ratios("again")
    console.print(f"core-ms of eight views: {statistics.median(here):.3f}; A/A {statistics.median(again):.3f}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
