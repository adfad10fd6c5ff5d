"""Upper bounds of the served rate: parts of a request run without HTTP and scheduler, by two threads of one process.

`decode` decodes and resizes an image and runs the model on one ready tensor eight times; `request` does all the work of
a request of eight views, in batches of 1, 2, 4 and 8. Prints ratios to the bare loop of gateway.py, medians of rounds
in which all take turns.
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
from rich.console import Console
from rich.table import Table

from benchmarks.gateway import VIEWS, Bare, Case, cases
from benchmarks.server import DATA, MODELS
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.executor import ViewExecutor
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.recorder import LockedRecorder
from tta_server.serving.runner import ImageRunner
from tta_server.telemetry.observer import Observers, ReceiptTimings
from tta_server.telemetry.prometheus import Metrics


def views_per_second(handle: Callable[[bytes], object], images: list[bytes], seconds: float) -> float:
    """Two threads that each handle one image after the other."""
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


def by_bucket(buckets: Sequence[Bucket], views: Iterable[int]) -> list[list[int]]:
    """Group consecutive views of one input size: only these can share a batch."""
    return [list(group) for _, group in groupby(views, key=lambda view: buckets[view])]


def handlers(model: Model, case: Case) -> dict[str, Callable[[bytes], object]]:
    """By name: what each thread does with an image."""
    observer = Observers(Metrics(), ReceiptTimings())
    runner, recorder = ImageRunner(ViewExecutor(), observer), LockedRecorder(threading.Lock())
    tensor = np.random.default_rng(0).random((1, *case.shape), np.float32)
    plan = make_plan(model, Options(min_views="all", max_views=VIEWS, policy=case.policy or None))

    def decode(image: bytes) -> None:
        model.preprocessing.canvas(read_source(image, Limits()).open().pixels, 1.0)
        for _ in range(VIEWS):
            model.backend.infer(tensor)

    def request(batch: int) -> Callable[[bytes], object]:
        def handle(image: bytes) -> object:
            source = read_source(image, Limits())
            job = make_job(plan, source, Deadline.after(10_000), Caller("floor"), observer)
            job.payload.decode()
            for first in range(0, VIEWS, batch):
                for views in by_bucket(job.buckets, range(first, first + batch)):
                    runner.run([(job, view) for view in views], recorder)
            job.payload.settle(StopReason.ALL_VIEWS, job)
            return job.payload.future.result()

        return handle

    return {"decode": decode, **{f"request, batches of {n}": request(n) for n in (1, 2, 4, 8)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="clothing", help="which model")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    (case,) = (case for case in cases(args.data) if case.model == args.only)
    images, bare = [path.read_bytes() for path in case.images], Bare(args.models, case)
    measured = handlers(load_model(args.models / case.model), case)
    ratios: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(args.rounds):
        direct = bare.views_per_second(args.seconds)
        for name, handle in measured.items():
            ratios[name].append(views_per_second(handle, images, args.seconds) / direct)
    table = Table("part of a request", "ratio to the bare model")
    for name, seen in ratios.items():
        table.add_row(name, f"{statistics.median(seen):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
