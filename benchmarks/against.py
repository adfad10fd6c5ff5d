"""What a change costs: this checkout against another commit over HTTP, in pairs, beside that commit against itself.

Three servers run, idle but for the one that is asked: the other commit, the same commit again, and this checkout. In
each round all three answer one connection with one view (p50), then eight connections with eight views (answers/s). A
ratio is that of a pair of one round, over 1 where this checkout is better; the ratios of the commit against itself
(A/A) say what the machine's noise makes of nothing. Met where the median ratio is at least 0.98, or within the A/A
interval, from the 10th to the 90th percentile. Needs git, and the environment of this checkout to fit the other commit.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway import VIEWS, Case, cases, load
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TARGET = 0.98
ALL_VIEWS = f"stop=all&min_views=all&max_views={VIEWS}&budget_ms=5000"
NAMES = ("before", "again", "here")


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def served(tree: Path) -> Iterator[int]:
    """The port of that tree's own server, ready."""
    command = [sys.executable, "-m", "tta_server", "serve", "--port", "0", "--models", str(tree / "models")]
    env = os.environ | {"PYTHONPATH": str(tree), "TTA_GRPC_PORT": "0"}
    process = subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        ready = next((line for line in process.stderr if line.startswith("ready")), None)
        if ready is None:
            raise SystemExit("the server did not start")
        yield int(ready.split("http://")[1].split()[0].rpartition(":")[2])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def p50(port: int, case: Case, seconds: float) -> float:
    """Milliseconds of one view, one connection."""
    latencies = load(port, case, "max_views=1", 1, 1, seconds)["latencies_ms"]
    return statistics.median(latencies)  # type: ignore[arg-type]


def rate(port: int, case: Case, seconds: float) -> float:
    """Answers of all views a second, eight connections."""
    return float(load(port, case, ALL_VIEWS, VIEWS, 8, seconds)["answers"]) / seconds  # type: ignore[arg-type]


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def report(console: Console, about: str, ratios: Sequence[float], noise: Sequence[float]) -> bool:
    """Whether the target is met."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the other commit")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--model", default="clothing")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each of a round's six measurements")
    args = parser.parse_args()
    case = next(case for case in cases(args.data) if case.model == args.model)
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        tree = stack.enter_context(checkout(args.commit))
        trees = {"before": tree, "again": tree, "here": HERE.parent}
        ports = {name: stack.enter_context(served(trees[name])) for name in NAMES}
        for port in ports.values():
            load(port, case, "max_views=1", 1, 1, 1)
        for number in range(args.rounds):
            order = [NAMES[(number + k) % 3] for k in range(3)]  # each comes first as often
            for name in order:
                times[name].append(p50(ports[name], case, args.seconds))
            for name in order:
                rates[name].append(rate(ports[name], case, args.seconds))
    console = Console()
    table = Table(f"{args.model}, {args.rounds} rounds", "one view, p50 ms", "eight views, answers/s")
    for name in NAMES:
        table.add_row(name, f"{statistics.median(times[name]):.2f}", f"{statistics.median(rates[name]):.1f}")
    console.print(table)

    def ratios(over: dict[str, list[float]], name: str, smaller_is_better: bool) -> list[float]:
        pairs = zip(over["before"], over[name], strict=True)
        return [before / value if smaller_is_better else value / before for before, value in pairs]

    met = report(console, "one view", ratios(times, "here", True), ratios(times, "again", True))
    met &= report(console, "eight views", ratios(rates, "here", False), ratios(rates, "again", False))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
