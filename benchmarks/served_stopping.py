"""What stop rules take when served: the views started, beside what stopping one view after the other would take.

Needs the labelled images (--data). A model is calibrated, then started several times with one slot and with two, and
gets one image at a time. Exits with 1 if a start takes over 5 % more or less than one at a time does, with two slots
over 5 % and one view more.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.replays import replayed
from benchmarks.stopping import EIGHT, cifar10, clothing, run_all_views
from tta_server import load
from tta_server.calibration.fit import Runs, fit_calibration
from tta_server.calibration.runs import full_plan, merge_views
from tta_server.imaging.libraries import configure_libraries
from tta_server.repository.calibration import FILE, write_calibration
from tta_server.repository.loader import load_model, model_digest
from tta_server.scheduling.stopping import Certain, Confident, StopRule

WITHIN = 0.05


@dataclass(frozen=True)
class Case:
    """A model with the policy and the epsilon that its images allow."""

    name: str
    policy: str | None
    epsilon: float

    @property
    def stops(self) -> dict[str, Any]:
        return {f"epsilon {self.epsilon}": {"epsilon": self.epsilon}, "certain": "certain"}


CASES = [Case("cifar10", EIGHT, 0.002), Case("clothing", None, 0.005)]
IMAGES = {"cifar10": cifar10, "clothing": clothing}


def calibrated(case: Case, source: Path, scratch: Path, paths: Sequence[Path]) -> tuple[Path, dict[str, list[int]]]:
    """Write a copy of the model with its policy and calibration; return it, and each image's views by rule."""
    folder = scratch / case.name
    folder.mkdir()
    config = yaml.safe_load((source / "tta.yaml").read_text())
    if case.policy:
        config["policy"] = yaml.safe_load(case.policy)
    (folder / "tta.yaml").write_text(yaml.safe_dump(config))
    (folder / "1").symlink_to((source / "1").resolve())
    model = load_model(folder)
    with closing(model.backend):
        plan = full_plan(model)
        seen = run_all_views(plan, paths)
        digest = model_digest(folder, model)
        runs = Runs.of([merge_views(plan, image) for image in seen])
        found = fit_calibration(runs, [case.epsilon], model=digest, policy=plan.policy.digest, merge=plan.merge)
        write_calibration(folder / FILE, found)
        rules: dict[str, StopRule] = dict(
            zip(case.stops, [Confident(found.threshold(case.epsilon).threshold), Certain()], strict=True)
        )
        weights = [view.weight for view in plan.views]
        views = {
            name: [
                replayed(
                    rule,
                    model.task.accumulator(plan.merge, plan.wanted, image.views.frame),
                    list(zip(image.predictions, weights, strict=True)),
                ).views
                for image in seen
            ]
            for name, rule in rules.items()
        }
    return folder, views


def started(folder: Path, slots: int, stop: Any, paths: Sequence[Path]) -> float:
    """Start the model; return the mean of the views that its images started."""
    with load(folder, slots=slots) as model:
        return float(np.mean([model.predict(path, stop=stop).receipt.started for path in paths]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--images", type=int, default=150, help="for each start, spread over the folder")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"served_stopping: skipped, there is no folder {args.data} of labelled images (--data)")
        return
    configure_libraries()
    table = Table("model, rule", "slots", "one at a time", "started, by start", "target", title="views of 8 an image")
    holds = True
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            paths = IMAGES[case.name](args.data)
            folder, sequential = calibrated(case, args.models / case.name, Path(scratch), paths)
            chosen = np.linspace(0, len(paths) - 1, args.images).astype(int)
            some = [paths[i] for i in chosen]
            for name, stop in case.stops.items():
                expected = float(np.mean([sequential[name][i] for i in chosen]))
                for slots in (1, 2):
                    starts = range(args.starts)
                    title = f"{case.name}, {name}, {slots} slots"
                    found = [started(folder, slots, stop, some) for _ in track(starts, title, transient=True)]
                    low, high = expected * (1 - WITHIN), expected * (1 + WITHIN) + slots - 1
                    holds &= all(low <= views <= high for views in found)
                    shown = " ".join(f"{views:.2f}" for views in sorted(found))
                    table.add_row(
                        f"{case.name}, {name}", str(slots), f"{expected:.2f}", shown, f"{low:.2f} to {high:.2f}"
                    )
    Console(width=140).print(table)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
