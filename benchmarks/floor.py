"""How near to the bare model a request of ours can come: no HTTP, no scheduler, two threads in one process.

`decode` decodes, resizes and runs the model on one ready tensor eight times; `request` does all that a request of eight
views needs, in batches of 1, 2, 4 and 8. Ratios to the bare loop of gateway.py, medians of rounds that take turns.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count, groupby
from pathlib import Path

import cv2
import numpy as np
from gateway import HERE, VIEWS, Bare, cases
from rich.console import Console
from rich.table import Table

from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import Deadline
from tta_server.serving.executor import Executor
from tta_server.serving.image import read_source
from tta_server.serving.job import Caller, make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.telemetry.prometheus import Metrics


def views_per_second(handle: Callable[[bytes], object], images: list[bytes], seconds: float) -> float:
    """Two threads, each with its next image as soon as the last is done."""
    done, end = [0, 0], time.perf_counter() + seconds

    def loop(thread: int) -> None:
        for number in count(thread * 37):
            if time.perf_counter() >= end:
                return
            handle(images[number % len(images)])
            done[thread] += VIEWS

    threads = [threading.Thread(target=loop, args=(i,)) for i in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def alike(buckets: Sequence[Bucket], views: Iterable[int]) -> list[list[int]]:
    """Views of one input size at a time: only they share a batch."""
    return [list(group) for _, group in groupby(views, key=lambda view: buckets[view])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=HERE.parent / "models")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="clothing", help="which model")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    (case,) = (case for case in cases(args.data) if case.model == args.only)
    images, bare = [path.read_bytes() for path in case.images], Bare(args.models, case)
    model, metrics = load_model(args.models / case.model), Metrics()
    runner, tensor = Executor(Observers()), np.random.default_rng(0).random((1, *case.shape), np.float32)
    plan = make_plan(model, Options(min_views="all", max_views=VIEWS, policy=case.policy or None))

    def decode(image: bytes) -> None:
        model.preprocessing.canvas(read_source(image, Limits()).open().pixels, 1.0)
        for _ in range(VIEWS):
            model.backend.infer(tensor)

    def request(batch: int) -> Callable[[bytes], object]:
        def handle(image: bytes) -> object:
            source = read_source(image, Limits())
            work = make_job(plan, source, Deadline.after(10_000), Caller("floor"), metrics).payload
            work.decode()
            for first in range(0, VIEWS, batch):
                for views in alike(work.layout.buckets, range(first, first + batch)):
                    runner.run([(work, view) for view in views])
            work.settle(StopReason.ALL_VIEWS)
            return work.future.result()

        return handle

    ways = {"decode": decode, **{f"request, batches of {n}": request(n) for n in (1, 2, 4, 8)}}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        direct = bare.views_per_second(args.seconds)
        for name, handle in ways.items():
            ratios[name].append(views_per_second(handle, images, args.seconds) / direct)
    table = Table("what", "ratio to the bare model")
    for name, seen in ratios.items():
        table.add_row(name, f"{statistics.median(seen):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
