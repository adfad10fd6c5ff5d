"""What stopping early saves and what it changes: the stop rules replayed on logged predictions.

Needs the labelled images (--data, by default ../shared/data). Every image is run once through all views by the
server's own code; then its stop rules and accumulators replay the log. Exits with 1 if a target is missed.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.replays import BOUNDED, SEED, WEIGHTS, Progress, Stopped, replayed, simulated
from tta_server.calibration.fit import Runs, apply_threshold, select_threshold
from tta_server.calibration.runs import merge_views, predict_views
from tta_server.imaging.libraries import configure_libraries
from tta_server.repository.loader import load_model
from tta_server.scheduling.stopping import Certain, Confident, Settled, StopRule
from tta_server.serving.cores import available_cores
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.run_views import ViewPredictions
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import ScoresOutput

EIGHT = (
    '["identity","hflip",{"shift":[2,0]},{"shift":[-2,0]},{"shift":[0,2]},{"shift":[0,-2]},'
    '["hflip",{"shift":[2,0]}],["hflip",{"shift":[-2,0]}]]'
)
"""The plain view, its mirror image, four shifts by 2 pixels, two of them mirrored too."""
EPSILON = 0.002
SIMULATED = 100_000
NUCLEI, LARGEST = 24, 512
HALVINGS = 200


def run_all_views(plan: Plan, paths: Sequence[Path]) -> list[ViewPredictions]:
    """Run every image through all views, on all cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        seen = pool.map(lambda path: predict_views(plan, path.read_bytes()), paths)
        return list(track(seen, f"{plan.model.name}, {len(plan.views)} views", len(paths), transient=True))


def certain_on_images(table: Table, name: str, plan: Plan, seen: Sequence[ViewPredictions]) -> bool:
    """Add a row for each merge and weighting; returns whether no label changed."""
    task, views = plan.model.task, len(plan.views)
    holds = True
    for merge in BOUNDED:
        for weighting, drawn in WEIGHTS.items():
            weights = drawn(np.random.default_rng(SEED), views, len(plan.model.config.labels))
            found = [
                replayed(
                    Certain(),
                    task.accumulator(merge, ResponseSpec(), image.views.frame),
                    list(zip(image.predictions, weights, strict=True)),
                )
                for image in track(seen, f"certain, {merge}, {weighting}", transient=True)
            ]
            share = np.mean([stopped.views for stopped in found]) / views
            holds &= certain_row(table, f"{name}, {views} views", merge, weighting, found, f"{share:.3f}")
    return holds


def certain_row(table: Table, name: str, merge: str, weighting: str, found: Sequence[Stopped], share: str) -> bool:
    changed = sum(stopped.label != stopped.final for stopped in found)
    table.add_row(name, merge, weighting, f"{len(found):,}", str(changed), "0", share)
    return changed == 0


def certain_on_simulated(table: Table) -> bool:
    tasks = {
        c: Classification([str(i) for i in range(c)], ScoresOutput("probabilities"), {"scores": (None, c)})
        for c in range(2, 21)
    }
    frame: Any = None
    found: dict[tuple[str, str], list[tuple[Stopped, int]]] = {}
    for image in track(simulated(SIMULATED), "simulated", SIMULATED, transient=True):
        accumulator = tasks[image.classes].accumulator(image.merge, ResponseSpec(), frame)
        stopped = replayed(Certain(), accumulator, image.views)
        found.setdefault((image.merge, image.weighting), []).append((stopped, len(image.views)))
    holds = True
    for (merge, weighting), rows in found.items():
        share = np.mean([stopped.views / of for stopped, of in rows])
        holds &= certain_row(table, "simulated", merge, weighting, [stopped for stopped, _ in rows], f"{share:.3f}")
    return holds


def epsilon_on_halves(table: Table, plan: Plan, seen: Sequence[ViewPredictions], truth: Sequence[int]) -> bool:
    """Calibrate on every second image by sorted path, from the first on; judge on the others."""
    logs = Runs.of([merge_views(plan, image) for image in seen])
    learnt = select_threshold(some(logs, slice(0, None, 2)), EPSILON)
    found = [
        replayed(
            Confident(learnt.threshold),
            plan.model.task.accumulator(plan.merge, plan.wanted, image.views.frame),
            [(prediction, view.weight) for prediction, view in zip(image.predictions, plan.views, strict=True)],
        )
        for image in seen[1::2]
    ]
    changed = np.mean([stopped.label != stopped.final for stopped in found])
    share = np.mean([stopped.views for stopped in found]) / len(plan.views)
    early, full, plain = (
        100 * np.mean([getattr(stopped, which) == label for stopped, label in zip(found, truth[1::2], strict=True)])
        for which in ("label", "final", "plain")
    )
    shown = f"{learnt.threshold:g} ({learnt.disagreements} of {len(seen[::2])} changed)"
    table.add_row("threshold", shown, "")
    table.add_row(f"answers changed, of {len(found)}", f"{changed:.4f}", f"at most {EPSILON}")
    table.add_row("share of views", f"{share:.3f} ({share * len(plan.views):.2f} of {len(plan.views)})", "at most 0.25")
    table.add_row("the same for random halves", halvings(logs), "")
    table.add_row("accuracy: stopped early", f"{early:.2f} %", "all views' within 0.1")
    table.add_row("accuracy: all views", f"{full:.2f} %", "")
    table.add_row("accuracy: plain view", f"{plain:.2f} %", "")
    return bool(changed <= EPSILON and share <= 0.25 and abs(early - full) <= 0.1)


def some(logs: Runs, which: Any) -> Runs:
    return Runs(logs.margins[which], logs.labels[which])


def halvings(logs: Runs) -> str:
    """Share of views, and how often more answers changed than promised, over HALVINGS random halves."""
    source = np.random.default_rng(SEED)
    shares, broken = [], 0
    for _ in range(HALVINGS):
        order = source.permutation(logs.images)
        learn, judge = np.array_split(order, 2)
        met = apply_threshold(some(logs, judge), select_threshold(some(logs, learn), EPSILON).threshold)
        shares.append(met.mean_views / logs.views)
        broken += met.disagreements > EPSILON * len(judge)
    low, middle, high = np.quantile(shares, (0.05, 0.5, 0.95))
    return f"{middle:.3f} (5-95 %: {low:.3f}-{high:.3f}); {broken} of {HALVINGS} over {EPSILON}"


RULES: dict[str, tuple[StopRule, float]] = {
    "certain": (Certain(), 0.0),
    "open 0.001": (Settled(0.001), 0.001),
    "open 0.01": (Settled(0.01), 0.01),
}
"""Each rule with the share of an image's pixels that it may change."""


def mask_of(task: Any, accumulator: Any, frame: ImageFrame) -> Any:
    return task.result(accumulator.result(), [], frame, ResponseSpec()).mask


def masked(plan: Plan, seen: ViewPredictions) -> dict[str, tuple[int, float]]:
    """For each rule: the views until it stopped, and the share of pixels that differ from the mask of all views."""
    task, views = plan.model.task, len(plan.views)
    merged = task.accumulator(plan.merge, plan.wanted, seen.views.frame)
    remaining = [(place, view.weight) for place, view in zip(seen.views.layout.placements, plan.views, strict=True)]
    stops: dict[str, tuple[int, Any]] = {}
    for done, prediction in enumerate(seen.predictions, 1):
        merged.add(prediction, remaining[done - 1][1])
        progress = Progress(merged, remaining[done:], done)
        for name, (rule, _) in RULES.items():
            if name not in stops and (done == views or rule.decide(progress)):
                stops[name] = done, mask_of(task, merged, seen.views.frame)
    final = mask_of(task, merged, seen.views.frame)
    return {name: (done, float(np.mean(mask != final))) for name, (done, mask) in stops.items()}


def masks(table: Table, plan: Plan, paths: Sequence[Path]) -> bool:
    with ThreadPoolExecutor(available_cores()) as pool:
        runs = pool.map(lambda path: masked(plan, predict_views(plan, path.read_bytes())), paths)
        found = list(track(runs, "masks", len(paths), transient=True))
    holds = True
    for name, (_, allowed) in RULES.items():
        stops = [image[name][0] for image in found]
        changed = [image[name][1] for image in found]
        early = sum(stop < len(plan.views) for stop in stops)
        share = np.mean(stops) / len(plan.views)
        most = f"{max(changed):.6f}"
        table.add_row(name, f"{share:.3f}", f"{early} of {len(found)}", f"{np.mean(changed):.6f}", most, f"{allowed:g}")
        holds &= max(changed) <= allowed
    return holds


def clothing(data: Path) -> list[Path]:
    return sorted((data / "clothing").glob("*/*/*.jpg"))


def cifar10(data: Path) -> list[Path]:
    return sorted((data / "cifar10").glob("*/*.jpg"))


def nuclei(data: Path) -> list[Path]:
    """Validation images of up to LARGEST pixels a side, spread over the sorted ids."""
    rows = csv.DictReader((data / "nuclei" / "index.csv").open())
    paths = [data / "nuclei" / "images" / f"{row['id']}.png" for row in rows if row["split"] == "val"]
    small = [path for path in sorted(paths) if max(Image.open(path).size) <= LARGEST]
    return [small[i] for i in np.linspace(0, len(small) - 1, min(NUCLEI, len(small))).astype(int)]


def planned(folder: Path, policy: str | None, work: Callable[[Plan], bool]) -> bool:
    """Call `work` with the model's plan of all views; returns its result."""
    model = load_model(folder)
    with closing(model.backend):
        return work(make_plan(model, Options(policy=policy, min_views="all", stop="all")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"stopping: skipped, there is no folder {args.data} of labelled images (--data)")
        return
    configure_libraries()
    certain = Table(
        "images", "merge", "weights", "n", "labels changed", "target", "share of views", title="stop certain"
    )
    epsilon = Table("cifar10, 8 views", "found", "target", title=f'stop {{"epsilon": {EPSILON}}}')
    settled = Table(
        "nuclei, d4", "share of views", "stopped early", "pixels changed", "at most", "target", title="masks"
    )

    def on_clothing(plan: Plan) -> bool:
        return certain_on_images(certain, "clothing", plan, run_all_views(plan, clothing(args.data)))

    def on_cifar10(plan: Plan) -> bool:
        paths = cifar10(args.data)
        seen = run_all_views(plan, paths)
        truth = [plan.model.config.labels.index(path.parent.name) for path in paths]
        return all([certain_on_images(certain, "cifar10", plan, seen), epsilon_on_halves(epsilon, plan, seen, truth)])

    held = [
        planned(args.models / "clothing", None, on_clothing),
        planned(args.models / "cifar10", EIGHT, on_cifar10),
        certain_on_simulated(certain),
        planned(args.models / "nuclei", None, lambda plan: masks(settled, plan, nuclei(args.data))),
    ]
    for table in (certain, epsilon, settled):
        Console().print(table)
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
