"""`tta-server calibrate`: finds on a folder of images at which margin a model may stop before its last view."""

import csv
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from tta_server.calibration.fit import (
    NEVER,
    Run,
    Runs,
    check_image_count,
    fit_calibration,
    mean_started_views,
)
from tta_server.calibration.runs import SkippedImage, full_plan, run_images
from tta_server.cli.console import err, loading, out
from tta_server.cli.files import find_images, model_folder
from tta_server.cli.options import MaxBytesOption, MaxPixelsOption, ModelsOption
from tta_server.cli.plots import check_plots, draw_stopping_curve
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.repository.calibration import FILE, Calibration, write_calibration
from tta_server.repository.loader import load_uncalibrated, model_digest
from tta_server.repository.model import Model
from tta_server.serving.cores import available_cores
from tta_server.serving.plan import Plan
from tta_server.serving.verification import verify

PLOTS = (".png", ".svg", ".pdf")
MOST_NAMED = 5
"""Skipped images that are reported one by one."""

DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        exists=True,
        file_okay=False,
        help="Folder of images like those that the model will serve, with its subfolders; labels are not needed.",
    ),
]
EpsilonOption = Annotated[
    list[float] | None,
    typer.Option(
        "--epsilon",
        "-e",
        help="Largest share of answers that may differ from those of all views; repeat it for several. Each takes at "
        "least about 3 / epsilon images.",
        show_default="0.01",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="File of the calibration.", show_default=f"{FILE} beside tta.yaml")
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Use at most this many images: a random draw, the same one each time.")
]
PlotOption = Annotated[
    Path | None,
    typer.Option(help="Draw mean views against the share of changed answers into this picture (needs matplotlib)."),
]
LogOption = Annotated[
    Path | None, typer.Option(help="Write each image's margin and top class after each view to this CSV file.")
]


def calibrate(
    model: Annotated[str, typer.Argument(help="Name of a model in the folder of models.")],
    data: DataOption,
    models: ModelsOption = None,
    epsilon: EpsilonOption = None,
    to: OutOption = None,
    limit: LimitOption = None,
    plot: PlotOption = None,
    log: LogOption = None,
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Find out on your images when a model may stop before its last view; requests then run fewer views.

    Every image runs through all views of the model's own policy. With stop={"epsilon": 0.01} requests then stop early:
    with 95 % confidence, at most 0.01 of their answers have another top class than all views would have given.

    Example: tta-server calibrate clothing --data photos --epsilon 0.01 --epsilon 0.002 --plot views.png
    """
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    folder, epsilons = model_folder(settings.models, model), _check_epsilons(epsilon or [0.01])
    target = to or folder / FILE
    _check_outputs(target, plot, log)
    with loading(f"loading {model} ..."):
        loaded = load_uncalibrated(folder)
    with closing(loaded.backend):
        plan = full_plan(loaded)
        _verify(loaded)
        paths = find_images(data, limit)
        check_image_count(len(paths), epsilons[0])
        runs = _run_all(plan, paths, settings.limits)
    digest = model_digest(folder, loaded)
    found = fit_calibration(runs, epsilons, model=digest, policy=plan.policy.digest, merge=plan.merge)
    write_calibration(target, found)
    _print_figures(model, found, runs)
    if log:
        _write_log(log, runs)
    if plot:
        draw_stopping_curve(plot, model, runs, found)
    _print_files(target, folder, epsilons[-1], plot, log)


def _verify(model: Model) -> None:
    """Raises ConfigError if test images contradict tta.yaml; prints what is doubtful."""
    model.observe(verify(model))
    for finding in model.observed.warnings:
        err.print(f"warning: {finding.sentence}", soft_wrap=True)


def _check_epsilons(epsilons: Sequence[float]) -> list[float]:
    """In ascending order, each once. Raises InvalidInput."""
    for epsilon in epsilons:
        if not 0 < epsilon < 1:
            raise InvalidInput(f"--epsilon takes a share between 0 and 1, such as 0.01, not {epsilon:g}")
    return sorted(set(epsilons))


def _check_outputs(target: Path, plot: Path | None, log: Path | None) -> None:
    """Before the images run: raises ConfigError for a file that can't be written."""
    for option, path in (("--out", target), ("--plot", plot), ("--log", log)):
        if path is None:
            continue
        if path.is_dir() or not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
            raise ConfigError(f"{path} can't be written; choose another place with {option}")
    if plot and plot.suffix not in PLOTS:
        raise ConfigError(f"--plot takes a file named {', '.join(PLOTS)}, not {plot}")
    if plot:
        check_plots()


def _run_all(plan: Plan, paths: Sequence[Path], limits: Limits) -> Runs:
    """Runs the images and reports those that are skipped. Raises InvalidInput if all are."""
    results = run_images(plan, paths, available_cores(), limits)
    runs: list[Run] = []
    skipped: list[SkippedImage] = []
    for result in track(results, "running images", len(paths), console=err, transient=True):
        if isinstance(result, Run):
            runs.append(result)
        else:
            skipped.append(result)
    for image in skipped[:MOST_NAMED]:
        err.print(f"skipped {image.path}: {image.reason}", soft_wrap=True)
    if len(skipped) > MOST_NAMED:
        err.print(f"skipped {len(skipped)} of {len(paths)} images in all")
    if not runs:
        raise InvalidInput(f"none of the {len(paths)} images could be used")
    return Runs.of(runs)


IDLE_SLOTS = (2, 4)
"""Numbers of idle slots for which the table has the views that are started, beside a single slot."""
MANY_CHANGED = 0.1
"""Share of changed answers from which a policy is doubted."""


def _print_figures(model: str, found: Calibration, runs: Runs) -> None:
    out.print(_threshold_table(model, found, runs))
    out.print(_changed_answers(model, found), soft_wrap=True)


def _threshold_table(model: str, found: Calibration, runs: Runs) -> Table:
    title = f"{model}: {found.views} views, {found.images} images, merge {found.merge}"
    columns = [f"with {slots} idle slots" for slots in IDLE_SLOTS]
    table = Table("epsilon", "threshold", "answers changed", "at most", "mean views", *columns, title=title)
    for kept in found.thresholds:
        table.add_row(
            f"{kept.epsilon:g}",
            f"{kept.threshold:.6f}" if kept.threshold < NEVER else "never",
            f"{kept.disagreements} of {found.images}",
            f"{kept.bound:.5f}",
            f"{kept.mean_views:.2f} of {found.views} ({kept.mean_views / found.views:.0%})",
            *(f"{mean_started_views(runs, kept.threshold, slots):.2f}" for slots in IDLE_SLOTS),
        )
    return table


def _changed_answers(model: str, found: Calibration) -> str:
    """What the policy itself does to the plain view's answers; which are better, only labels show."""
    share = found.disagreement[0]
    sentence = (
        f"all {found.views} views change {share:.1%} of the answers of the plain view alone; epsilon counts answers "
        "that stopping changes back, which are mostly those that the further views had changed"
    )
    if share < MANY_CHANGED:
        return sentence
    return (
        f"{sentence}.\nThat is many: views that do not keep the label (turns of digits, flips of text) change answers "
        f"to the worse. Compare policies on labelled images before {model} serves with this one"
    )


def _write_log(path: Path, runs: Runs) -> None:
    """A line for each image and number of merged views; `label` is the index of the top class."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "views", "margin", "label"])
        for image, (margins, labels) in enumerate(zip(runs.margins, runs.labels, strict=True)):
            rows.writerows([image, k, f"{m:.7g}", c] for k, (m, c) in enumerate(zip(margins, labels, strict=True), 1))


def _print_files(target: Path, folder: Path, epsilon: float, plot: Path | None, log: Path | None) -> None:
    for what, path in (("the curve", plot), ("the margins", log)):
        if path:
            out.print(f"{path}: {what}", soft_wrap=True)
    use = f'set stop: {{epsilon: {epsilon:g}}} in tta.yaml, or ?stop={{"epsilon":{epsilon:g}}} in a request'
    if target != folder / FILE:
        use = f"put it beside tta.yaml as {FILE}, and {use}"
    out.print(f"{target}: the calibration; {use}", soft_wrap=True)
