"""What a device pool does in virtual time, against targets: K shrinks before anybody is refused.

Two scenarios (docs/scenarios): `h100.yaml` at 200 to 12,800 requests/s, with seeds 0 to 2, and `gpu.yaml` with four
workers at 8 times its load, without the jitter of its masks: a batch of theirs that takes five times as long takes 220
ms, and no order of work answers a photo in 80 ms then. What happens with it is printed too, without a target. Exits
with 1 where a target is missed. Several minutes.

    .venv/bin/python benchmarks/pool.py [--seconds 10] [--seeds 3]
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.console import Console

from tta_server.simulation.figures import Row
from tta_server.simulation.forecast import Forecast
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.scenario import JitterScenario, read_scenario

SCENARIOS = Path(__file__).parents[1] / "docs" / "scenarios"
NONE = JitterScenario(share=0, factor=1)
LOADS = (1, 2, 4, 8, 16, 64)


@dataclass(frozen=True)
class Target:
    """A figure of an entry of the traffic at a load, and the value that it should reach or not exceed."""

    load: float
    model: str
    figure: str
    value: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{self.model} {self.figure} {'<=' if self.at_most else '>='} {self.value:g}"

    def found(self, rows: list[Row]) -> float:
        return next(float(row[self.figure]) for row in rows if row["model"] == self.model)

    def is_met(self, rows: list[Row]) -> bool:
        found = self.found(rows)
        return found <= self.value if self.at_most else found >= self.value


H100 = (
    Target(4, "resnet", "mean_views", 7.995),
    Target(4, "resnet", "latency_p99_ms", 15, at_most=True),
    Target(16, "resnet", "goodput_share", 0.98),
    Target(16, "resnet", "refused_share", 0.005, at_most=True),
    Target(16, "resnet", "mean_views", 3.3),
    Target(16, "resnet", "slo", 0.999),
    Target(64, "resnet", "goodput_share", 0.93),
)
GPU = (
    Target(8, "photos", "refused_share", 0, at_most=True),
    Target(8, "photos", "mean_views", 1.9),
    Target(8, "masks", "mean_views", 2.2),
    Target(8, "archive", "slo", 1),
)


@lru_cache
def forecast(name: str, seed: int, seconds: float, workers: int, jitter: bool = True) -> Forecast:
    changes = {"seed": seed, "duration_s": seconds, "workers": workers}
    scenario = read_scenario(SCENARIOS / name).model_copy(update=changes)
    if not jitter:
        steady = {model: found.model_copy(update={"jitter": NONE}) for model, found in scenario.models.items()}
        scenario = scenario.model_copy(update={"models": steady})
    models = {model: profile_model(model, found, SCENARIOS, 1) for model, found in scenario.models.items()}
    return Forecast(scenario, models)


def points(seconds: float, seeds: int) -> Iterator[tuple[str, float, Forecast, tuple[Target, ...]]]:
    """Each point: its name, load, forecast and targets."""
    for seed in range(seeds):
        for load in LOADS:
            targets = tuple(target for target in H100 if target.load == load)
            yield f"h100.yaml, seed {seed}", load, forecast("h100.yaml", seed, seconds, 15), targets
    for seed in range(seeds):
        name = f"gpu.yaml with 4 workers, seed {seed}"
        yield f"{name}, without jitter", 8, forecast("gpu.yaml", seed, 2 * seconds, 4, jitter=False), GPU
        yield name, 8, forecast("gpu.yaml", seed, 2 * seconds, 4), ()


def sentence(row: Row) -> str:
    return (
        f"{row['model']}: {row['offered_per_s']:.0f} requests/s, goodput {row['goodput_share']:.2%}, "
        f"refused {row['refused_share']:.2%}, in time {row['slo']:.3%}, K {row['mean_views']:.2f}, "
        f"p50 {row['latency_p50_ms']:.1f} ms, p99 {row['latency_p99_ms']:.1f} ms; "
        f"batches of {row['mean_batch']:.1f} views, device busy {row['busy_share']:.0%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of virtual time; twice that for gpu.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    missed = 0
    for name, load, found, targets in points(args.seconds, args.seeds):
        begun = time.monotonic()
        rows = found.rows(load, 1)
        console.print(f"{name}, load {load:g} ({time.monotonic() - begun:.0f} s)")
        for row in rows:
            console.print(f"    {sentence(row)}")
        for target in targets:
            met = target.is_met(rows)
            missed += not met
            console.print(f"    {target}: {target.found(rows):.5g}, {'met' if met else '[red]MISSED[/]'}")
    console.print(f"{missed} targets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
