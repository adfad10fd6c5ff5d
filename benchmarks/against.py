"""One view's latency over HTTP, of this checkout against another commit, in turns in one run.

Two servers run at a time, idle but for the one that is asked. The figure is the median over rounds of the difference of
their p50. Needs git, and the environment of this checkout to fit the other commit.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway import cases, load
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
FOUNDATION = "c956a46"
"""The commit before budgets were worked on."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default=FOUNDATION)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    case = next(case for case in cases(args.data) if case.model == "clothing")
    found: dict[str, list[float]] = {args.commit: [], "here": []}
    with checkout(args.commit) as tree, served(tree) as before, served(HERE.parent) as after:
        ports = {args.commit: before, "here": after}
        for port in ports.values():
            load(port, case, "max_views=1", 1, 1, 1)
        for number in range(args.rounds):
            for name in sorted(ports, reverse=number % 2 == 1):  # neither always comes first
                latencies = load(ports[name], case, "max_views=1", 1, 1, args.seconds)["latencies_ms"]
                found[name].append(statistics.median(latencies))  # type: ignore[arg-type]
    table = Table("one view of clothing", "p50 ms, median of rounds", "lowest", "highest")
    for name, values in found.items():
        table.add_row(name, *(f"{v:.2f}" for v in (statistics.median(values), min(values), max(values))))
    Console().print(table)
    more = statistics.median(b - a for a, b in zip(found[args.commit], found["here"], strict=True))
    Console().print(f"here takes {more:+.2f} ms (target: at most +0.30)", highlight=False)


if __name__ == "__main__":
    main()
