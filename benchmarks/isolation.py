"""Whether an answer ever reaches another client: eight clients use all protocols at once and check every answer.

Each client knows what the model answers for each of its images: they were predicted one at a time in this process, with
the same number of views. It picks protocols at random, compares every answer with what it knows, and in one request of
twelve leaves early: in the middle of the body, while the answer is on its way, or after a stream's first message. At
the end no job may be left on the server.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.checking_client import BUDGET_MS, MODEL, TIMEOUT, TOLERANCE, VIEWS, Client, Photo, Tally
from benchmarks.server import MODELS, Endpoints, jobs_left, served
from tta_server import load

APART = 100 * TOLERANCE
"""Smallest difference between the answers for two images; below it a wrong answer would not be noticed."""
IMAGES = 3
"""Images of each client."""


def draw(count: int, seed: int = 0) -> list[bytes]:
    """Small PNGs of random colour fields."""
    source = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = source.integers(0, 256, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((40, 36), Image.Resampling.BICUBIC).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


def answered_alone(images: Sequence[bytes]) -> list[Photo]:
    """Predict each image in this process; raises ValueError where two answers are too close to tell apart."""
    options: dict[str, Any] = {"stop": "all", "min_views": "all", "max_views": VIEWS, "include": ["probabilities"]}
    with load(MODELS / MODEL, slots=1) as model:
        answers = [model.predict(image, budget_ms=BUDGET_MS, **options).to_dict() for image in images]
    photos = [
        Photo(image, np.array(answer["prediction"]["probabilities"], np.float32))
        for image, answer in zip(images, answers, strict=True)
    ]
    for one, other in combinations(photos, 2):
        if np.abs(one.expected - other.expected).max() < APART:
            raise ValueError("two images have the same answer; draw others")
    return photos


def run_clients(endpoints: Endpoints, requests: int, clients: int, seed: int) -> Tally:
    """Run all clients at once, `requests` in all, then wait until the server has no jobs left."""
    photos = answered_alone(draw(clients * IMAGES, seed))
    parts = [photos[first : first + IMAGES] for first in range(0, len(photos), IMAGES)]
    running = [Client(endpoints, part, seed * clients + number) for number, part in enumerate(parts)]
    with ThreadPoolExecutor(clients) as threads:
        runs = [threads.submit(client.run, requests // clients) for client in running]
        tally = sum((run.result() for run in runs), Tally())
    end = time.monotonic() + TIMEOUT
    while jobs_left(endpoints):
        if time.monotonic() > end:
            tally.wrong.append("some jobs are never settled")
            break
        time.sleep(0.01)
    return tally


def report(tally: Tally, console: Console) -> int:
    """Print a row for each protocol; returns the number of requests."""
    table = Table("protocol", "answers", "refused", "left early")
    for protocol in sorted(tally.answers | tally.refused | tally.left):
        table.add_row(protocol, *(str(count[protocol]) for count in (tally.answers, tally.refused, tally.left)))
    totals = (tally.answers.total(), tally.refused.total(), tally.left.total())
    table.add_row("all", *map(str, totals), style="bold")
    console.print(table)
    return sum(totals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with served("--models", str(MODELS)) as endpoints:
        start = time.perf_counter()
        tally = run_clients(endpoints, args.requests, args.clients, args.seed)
        seconds = time.perf_counter() - start
    console = Console()
    requests = report(tally, console)
    console.print(f"{args.clients} clients, {seconds:.0f} s, {requests / seconds:.0f} requests/s; "
                  f"wrong answers: {len(tally.wrong)} (target: 0)")  # fmt: skip
    for mistake in tally.wrong[:20]:
        console.print(mistake, markup=False)
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
