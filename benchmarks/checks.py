"""What the checks of tta.yaml cost: runs of the model at load, time until ready, and time of one view while serving.

Serving: requests of one view, in turns with the checks, without them, and without them again (A/A), so that drift of
the machine's speed falls on all alike; a ratio a round. A detector looks at its boxes while it decodes them, which is
switched off likewise. Load: seconds until a server of the bundled models is ready,
in turns with another commit (--commit), and the runs of each model in `verify`. Exits with 1 where a target is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.against import checkout, percentile
from benchmarks.server import MODELS, ROOT, served
from tta_server import LoadedModel, load
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Model
from tta_server.serving.verification import verify
from tta_server.tasks.boxes.detection import Detection

MOST_RUNS = 20
MOST_SHARE = 0.01
"""Of one view's latency."""
MOST_RATIO = 2.0
"""Of the time until ready: 6 s where the commit before takes 3."""
SERVED = ("clothing", "bloodcells")


class Counting:
    """A backend that counts its runs."""

    def __init__(self, model: Model) -> None:
        self._backend, self.signature, self.runs = model.backend, model.backend.signature, 0
        self.device, self.ladder = model.backend.device, model.backend.ladder
        self.permits = model.backend.permits

    def infer(self, *given: Any) -> Any:
        self.runs += 1
        return self._backend.infer(*given)

    def close(self) -> None:
        self._backend.close()


def runs_at_load(folder: Path) -> int:
    model = load_model(folder)
    counting = Counting(model)
    object.__setattr__(model, "backend", counting)
    verify(model)
    return counting.runs


def latency(model: LoadedModel, image: Path) -> float:
    start = time.perf_counter()
    model.predict(image, max_views=1)
    return time.perf_counter() - start


class NoRemarks:
    """In place of a detector's remarks."""

    def of(self, seen: Any) -> tuple[()]:
        return ()


def switch(model: Model, on: bool) -> None:
    """Switches the checks of predictions on or off."""
    if on:
        vars(model).pop("remarks", None)
        vars(model.task).update(vars(model.task).pop("_switched_off", {}))
        return
    object.__setattr__(model, "remarks", lambda prediction: ())
    if isinstance(model.task, Detection) and "_switched_off" not in vars(model.task):
        vars(model.task)["_switched_off"] = {"_remarks": model.task._remarks}
        vars(model.task)["_remarks"] = NoRemarks()


def serving_ratios(name: str, rounds: int, requests: int) -> tuple[list[float], list[float]]:
    """Latency with the checks over that without, and without over without, a round each."""
    image = next((MODELS / name).glob("sample.*"))
    with load(MODELS / name, slots=1) as model:
        loaded = model.model
        ratios, noise = [], []
        for _ in range(rounds):
            seen: dict[str, list[float]] = {"on": [], "off": [], "again": []}
            for number in range(requests):
                kinds = list(seen)
                for kind in kinds[number % 3 :] + kinds[: number % 3]:
                    switch(loaded, kind == "on")
                    seen[kind].append(latency(model, image))
            medians = {kind: statistics.median(values) for kind, values in seen.items()}
            ratios.append(medians["on"] / medians["off"])
            noise.append(medians["again"] / medians["off"])
    return ratios, noise


def seconds_until_ready(tree: Path) -> float:
    start = time.perf_counter()
    with served("--models", str(tree / "models"), tree=tree):
        return time.perf_counter() - start


def report(console: Console, about: str, found: str, target: str, met: bool) -> bool:
    console.print(f"{about}: {found}; target {target}: {'met' if met else 'MISSED'}", highlight=False, soft_wrap=True)
    return met


def report_serving(console: Console, name: str, ratios: Sequence[float], noise: Sequence[float]) -> bool:
    median, low, high = statistics.median(ratios), percentile(noise, 0.1), percentile(noise, 0.9)
    found = (
        f"median ratio {median:.4f} ({percentile(ratios, 0.1):.4f} to {percentile(ratios, 0.9):.4f}), "
        f"A/A {statistics.median(noise):.4f} ({low:.4f} to {high:.4f})"
    )
    return report(console, f"one view of {name}, with checks over without", found, "1.01", median <= 1 + MOST_SHARE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", help="time the start of this commit's server too")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round")
    args = parser.parse_args()
    console, met = Console(), True
    runs = {folder.name: runs_at_load(folder) for folder in find_models(MODELS)}
    most = max(runs.values())
    met &= report(console, "runs of a bundled model in verify, the most", str(most), f"{MOST_RUNS}", most <= MOST_RUNS)
    for name in SERVED:
        met &= report_serving(console, name, *serving_ratios(name, args.rounds, args.requests))
    if args.commit:
        with checkout(args.commit) as tree:
            pairs = [(seconds_until_ready(tree), seconds_until_ready(ROOT)) for _ in range(5)]
        before, here = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(here / before for before, here in pairs)
        found = f"{before:.2f} s before, {here:.2f} s here, median ratio {ratio:.2f}"
        met &= report(console, "six models ready", found, f"{MOST_RATIO:g}", ratio <= MOST_RATIO)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
