"""Core-ms of one request by piece, outside of HTTP and scheduler: this checkout against another commit, in turns.

One process for each checkout runs requests one after the other on one thread: decode and resize, write each view, run
the model, read and check its output, merge, answer. The model runs between the pieces as in a server, for all code is
several times slower on the caches that it leaves. Figures are medians over rounds of each round's medians, in ms of the
thread's own time. Needs git, and an environment that fits both commits.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.against import checkout
from benchmarks.gateway import VIEWS, Case, cases
from benchmarks.server import DATA, ROOT
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.image import ImageViews, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.tasks.render.rendering import render

PIECES = ("decode", "write", "model", "read", "merge", "answer")
IMAGES = 40
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "200000000", "MALLOC_TRIM_THRESHOLD_": "200000000"}
"""For glibc: freed memory is used again, as in a server's threads, which fault 1 to 8 pages a request."""


class Stopwatch:
    """Adds the thread's time since the last lap to a piece."""

    def __init__(self) -> None:
        self.ms = dict.fromkeys(PIECES, 0.0)
        self._last = time.thread_time()

    def lap(self, piece: str) -> None:
        now = time.thread_time()
        self.ms[piece] += (now - self._last) * 1e3
        self._last = time.thread_time()


def request(plan: Plan, image: bytes) -> dict[str, float]:
    """The ms of each piece of one request."""
    watch, model = Stopwatch(), plan.model
    source = read_source(image, Limits(), model.preprocessing.rendering)
    views = ImageViews(plan, make_layout(plan, source.size), source.size)
    views.decode(source)
    accumulator = model.task.accumulator(plan.merge, plan.wanted, views.frame)
    watch.lap("decode")
    for entry, view in enumerate(plan.views):
        batch = model.preprocessing.empty(1, views.input_size(entry))
        views.write(entry, batch[0])
        watch.lap("write")
        outputs = model.backend.infer(batch)
        watch.lap("model")
        prediction = views.read(entry, outputs, 0)
        model.task.is_sound(prediction)
        model.remarks(prediction)
        watch.lap("read")
        accumulator.add(prediction, view.weight)
        accumulator.margin()
        watch.lap("merge")
    result = model.task.result(accumulator.result(), [], views.frame, plan.wanted)
    json.dumps(render(result, plan.wanted).prediction)
    watch.lap("answer")
    return watch.ms


def work(model: Model, case: Case) -> None:
    """Answer each line of stdin, a number of requests, with the median ms of each piece."""
    plan = make_plan(model, Options(policy=case.policy or None, max_views=VIEWS, min_views="all", stop="all"))
    files = [path.read_bytes() for path in case.images[:IMAGES]]
    for line in sys.stdin:
        runs = [request(plan, files[number % len(files)]) for number in range(int(line))]
        print(json.dumps({piece: statistics.median(run[piece] for run in runs) for piece in PIECES}), flush=True)


@contextmanager
def worker(tree: Path, model: str, data: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs this script with that checkout's package and models."""
    command = [sys.executable, __file__, "--worker", str(tree / "models"), "--only", model, "--data", str(data)]
    env = {**os.environ, **KEEP_MEMORY, "PYTHONPATH": os.pathsep.join((str(tree), str(ROOT)))}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def ask(process: "subprocess.Popen[str]", requests: int) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    print(requests, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())  # type: ignore[no-any-return]


def measure(trees: Sequence[Path], model: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """By checkout, the ms of each piece."""
    found: list[list[dict[str, float]]] = [[] for _ in trees]
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(tree, model, args.data)) for tree in trees]
        for process in workers:
            ask(process, 3)
        for number in range(args.rounds):
            for index in (0, 1) if number % 2 else (1, 0):
                found[index].append(ask(workers[index], args.requests))
    return [{piece: statistics.median(run[piece] for run in runs) for piece in PIECES} for runs in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="the other commit")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=12, help="of each checkout in a round")
    parser.add_argument("--only", choices=["clothing", "nuclei", "bloodcells", "mouse"])
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [case for case in cases(args.data) if args.only in (None, case.model)]
    if args.worker:
        work(load_model(args.worker / args.only), chosen[0])
        return
    if not args.commit:
        parser.error("name a commit")
    table = Table("model", "checkout", *PIECES, "all but model")
    with checkout(args.commit) as tree:
        for case in chosen:
            for name, ms in zip((args.commit, "here"), measure((tree, ROOT), case.model, args), strict=True):
                outside = sum(ms.values()) - ms["model"]
                table.add_row(case.model, name, *(f"{ms[piece]:.2f}" for piece in PIECES), f"{outside:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
