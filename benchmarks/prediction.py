"""What `tta-server simulate` predicts against a real run on this machine: the model clothing at three loads.

The costs come from two closed loops of 8 connections before and after each load, one with one view and one with all K
views: their rates give the core time of a view and of a request, their receipts the share of decoding and the variance.
In between the load itself runs as in `loadtest.openloop`; then the simulator runs the same rate. Both use the cores of
this machine as slots; load generator, event loop and slots share them.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import uvloop
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtest.cases import BUDGETS_MS, DATA, IMAGES, MODELS, Case
from loadtest.generator import closed_loop, open_loop, poisson
from loadtest.openloop import PATIENCE_S
from loadtest.report import Point, Row, outcome, quantile, row
from loadtest.server import served
from loadtest.target import Target
from tta_server.serving.cores import available_cores
from tta_server.simulation.forecast import Forecast
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.scenario import read_scenario

MODEL = "clothing"
WARM_S = 1.5
FINISH_MS = 0.1
"""The time to make an answer on a slot, as seen in receipts (part of `merge`)."""
SHOWN = {"slo": "{:.3f}", "goodput_per_s": "{:.1f}", "mean_views": "{:.2f}", "refused_share": "{:.3f}"}
"""The figures that are compared, and their format."""
AIM = 0.1
"""Target: predictions of all figures but refusals within 10 %."""
DISTURBED = 0.15
"""A view's cost that changes by a larger share within a point shows that other processes use the cores."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed loop: answers per second; in ms, each answer's stages, and its time outside the server."""

    per_s: float
    stages: Sequence[dict[str, float]]
    beside: Sequence[float]

    @classmethod
    def of(cls, url: str, requests: list[bytes], seconds: float) -> "Loop":
        shots = uvloop.run(closed_loop(Target(url).address, requests, seconds))
        receipts = [json.loads(shot.answer.partition(b"\r\n\r\n")[2])["receipt"] for shot in shots]
        taken = max(shot.ended for shot in shots) - min(shot.sent for shot in shots)
        latencies = [(shot.ended - shot.sent) * 1e3 for shot in shots]
        beside = [ms - receipt["elapsed_ms"] for ms, receipt in zip(latencies, receipts, strict=True)]
        return cls(len(shots) / taken, [receipt["stages_ms"] for receipt in receipts], beside)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a request costs, in ms.

    Mean core time of a `view`, of `decode`, and of the HTTP `front` (all else); the median time that an answer `waits`
    there without using a core. Noise: sigmas of the logarithms of a view's time and of that wait.
    """

    view: float
    decode: float
    front: float
    waits: float
    view_noise: float
    wait_noise: float

    @classmethod
    def of(cls, one: Loop, whole: Loop, views: int, cores: int) -> "Costs":
        """From answers with one view and with all of them."""
        with_one, with_all = cores * 1e3 / one.per_s, cores * 1e3 / whole.per_s
        view = (with_all - with_one) / (views - 1)
        decode = statistics.fmean(stages["decode"] for stages in one.stages)
        looks = [stages["prepare"] + stages["infer"] for stages in one.stages]
        front = max(0.0, with_one - view - decode - FINISH_MS)
        beside, slow = (quantile(one.beside, share) for share in (0.5, 0.95))
        waits = max(beside / 2, beside - front)
        return cls(view, decode, front, waits, _sigma(looks), math.log(slow / beside) / 1.645)

    def drift(self, later: "Costs") -> float:
        """The share by which a view's cost changed."""
        return abs(later.view / self.view - 1)

    @classmethod
    def mean(cls, before: "Costs", after: "Costs") -> "Costs":
        return cls(**{name: (value + getattr(after, name)) / 2 for name, value in asdict(before).items()})

    def scenario(self, case: Case, per_s: float, options: argparse.Namespace) -> dict[str, object]:
        """The scenario of that rate. It states medians, which are below the means for lognormal costs."""
        median = math.exp(-(self.view_noise**2) / 2)
        model = {"view_ms": {1: self.view * median}, "decode_ms": self.decode * median, "finish_ms": FINISH_MS}
        front = {"core_ms": self.front, "wait_ms": self.waits, "noise": self.wait_noise}
        asked = {"arrivals": {"poisson": per_s}, "budget_ms": case.budget_ms, "views": case.views, "model": case.model}
        return {
            "slots": available_cores(),
            "door": front,
            "models": {case.model: model | {"noise": self.view_noise}},
            "traffic": [asked],
            "duration_s": options.simulated_seconds,
            "seed": options.seed,
        }


def _sigma(values: Sequence[float]) -> float:
    """The sigma of the logarithms, from their quartiles, which rare slow runs do not affect."""
    low, _, high = statistics.quantiles([math.log(value) for value in values], n=4)
    return (high - low) / 1.349


def measured(url: str, case: Case, seconds: float) -> tuple[Costs, float]:
    """Costs, and answers per second with all views."""
    budget = Target(url).max_budget_ms(case.model)
    one, whole = replace(case, views=1).requests("fixed", budget), case.requests("fixed", budget)
    loops = Loop.of(url, one, seconds), Loop.of(url, whole, seconds)
    return Costs.of(*loops, case.views, available_cores()), loops[1].per_s


def real(url: str, point: Point, seed: int) -> Row:
    times = poisson(point.per_s, point.seconds, Random(f"{seed} {point.load:g}"))
    patience = point.case.budget_ms / 1e3 + PATIENCE_S
    shots = uvloop.run(open_loop(Target(url).address, point.case.requests(point.mode), times, patience))
    return row(point, [outcome(shot) for shot in shots])


def simulated(scenario: dict[str, object], slots: int | None = None) -> Row:
    """The simulator's row, from a scenario file as users write it; a slot a core unless stated."""
    slots = slots or available_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(yaml.safe_dump(scenario))
        found = read_scenario(path)
    models = {name: profile_model(name, model, MODELS, available_cores()) for name, model in found.models.items()}
    (predicted,) = Forecast(found, models).rows(1.0, slots)
    return predicted


def compared(url: str, case: Case, options: argparse.Namespace, console: Console) -> Iterator[tuple[Row, Row]]:
    """For each load the real and the predicted row."""
    Loop.of(url, case.requests("fixed", Target(url).max_budget_ms(case.model)), WARM_S)
    closed_per_s = None
    for load in map(float, options.loads.split(",")):
        before, per_s = measured(url, case, options.cost_seconds)
        closed_per_s = closed_per_s or per_s
        measured_row = real(
            url, Point(case, "adaptive", "sweep", None, closed_per_s, load, options.seconds), options.seed
        )
        after, _ = measured(url, case, options.cost_seconds)
        costs = Costs.mean(before, after)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in asdict(costs).items())
        console.print(f"{load:g}x: {shown}", highlight=False)
        if before.drift(after) > DISTURBED:
            console.print(
                f"  [yellow]a view's cost changed by {before.drift(after):.0%} meanwhile: do not trust this point"
            )
        yield measured_row, simulated(costs.scenario(case, float(measured_row["offered_per_s"]), options))


def table(points: Sequence[tuple[Row, Row]]) -> Table:
    shown = Table("load", "offered/s", "figure", "real", "predicted", "difference", box=SIMPLE_HEAD)
    for actual, predicted in points:
        for name, form in SHOWN.items():
            a, p = float(actual[name]), float(predicted[name])
            head = (f"{actual['load']:g}x", f"{actual['offered_per_s']:.1f}") if name == "slo" else ("", "")
            difference = f"{p / a - 1:+.1%}" if a else ""
            shown.add_row(*head, name.replace("_", " "), form.format(a), form.format(p), difference)
        shown.add_section()
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="0.5,1.5,3", help="multiples of the closed loop's rate (0.5,1.5,3)")
    parser.add_argument("--seconds", type=float, default=20, help="of each real point (20)")
    parser.add_argument("--cost-seconds", type=float, default=4, help="of each closed loop beside it (4)")
    parser.add_argument("--simulated-seconds", type=float, default=60, help="of each simulated point (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA, help="labelled images; without them: the drawn sample")
    options, console = parser.parse_args(), Console()
    case = Case(MODEL, tuple(IMAGES[MODEL](options.data, MODELS)), BUDGETS_MS[MODEL], 8)
    with served(MODELS) as (url, _):
        points = list(compared(url, case, options, console))
    console.print(table(points))
    worst = max(
        abs(float(predicted[name]) / float(actual[name]) - 1)
        for actual, predicted in points
        for name in ("slo", "goodput_per_s", "mean_views")
    )
    console.print(f"largest difference in SLO attainment, goodput and mean K: {worst:.1%} (aim: within {AIM:.0%})")


if __name__ == "__main__":
    main()
