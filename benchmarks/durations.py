"""Record how long the steps of a model take on this machine, for `durations` of a scenario of `tta-server simulate`.

One model runs in this process, with images always waiting, for a while; every step of a slot becomes a line.

    .venv/bin/python benchmarks/durations.py clothing --seconds 30 --out durations.csv
"""

import argparse
import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.server import DATA, MODELS
from loadtest.cases import IMAGES
from tta_server import load
from tta_server.scheduling.costs import Bucket, CostModel

WAITING = 6
"""Images that wait or run at any time."""


@contextmanager
def recorded(lines: list[dict[str, Any]]) -> Iterator[None]:
    """Add a line for each step that any cost model observes."""
    batch, stage, begun = CostModel.observe, CostModel.observe_stage, time.monotonic()

    def add(step: str, views: int, seconds: float) -> None:
        start = time.monotonic() - begun - seconds
        if start >= 0:
            lines.append({"seconds": f"{start:.4f}", "step": step, "views": views, "ms": f"{seconds * 1e3:.3f}"})

    def observe(costs: CostModel, bucket: Bucket, n: int, seconds: float, now: float) -> None:
        add("view", n, seconds)
        batch(costs, bucket, n, seconds, now)

    def observe_stage(costs: CostModel, name: str, model: str, pixels: int, seconds: float, now: float) -> None:
        add(name.partition("+")[0], 1, seconds)
        stage(costs, name, model, pixels, seconds, now)

    CostModel.observe, CostModel.observe_stage = observe, observe_stage  # type: ignore[method-assign]
    try:
        yield
    finally:
        CostModel.observe, CostModel.observe_stage = batch, stage  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(IMAGES))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("durations.csv"))
    args = parser.parse_args()
    images = [path.read_bytes() for path in IMAGES[args.model](args.data, MODELS)]
    lines: list[dict[str, Any]] = []
    with load(MODELS / args.model) as model:
        waiting = [model.submit(images[number % len(images)]) for number in range(WAITING)]
        number, end = WAITING, time.monotonic() + args.seconds
        with recorded(lines):
            while time.monotonic() < end:
                waiting.pop(0).result()
                waiting.append(model.submit(images[number % len(images)]))
                number += 1
            for future in waiting:
                future.result()
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["seconds", "step", "views", "ms"])
        writer.writeheader()
        writer.writerows(sorted(lines, key=lambda line: float(line["seconds"])))
    print(f"{args.out}: {len(lines)} steps of {number} images")


if __name__ == "__main__":
    main()
