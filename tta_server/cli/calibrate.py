"""`tta-server calibrate`: learns from a folder of images when a model may stop before its last view."""

import csv
import math
import os
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from tta_server.calibration.fit import THRESHOLDS, Logs, Trail, check_enough, learned, replay
from tta_server.calibration.runs import Skipped, full_plan, logged
from tta_server.cli.console import err, loading, out
from tta_server.cli.curves import check_plots
from tta_server.cli.files import model_folder
from tta_server.cli.options import MaxBytesOption, MaxPixelsOption, ModelsOption
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.repository.calibration import FILE, Calibration, write_calibration
from tta_server.repository.loader import load_uncalibrated, model_digest
from tta_server.serving.cores import available_cores
from tta_server.serving.plan import Plan

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"],
)
PICTURES = (".png", ".svg", ".pdf")
NAMED = 5
"""Skipped images that are named, each on a line."""
SEED = 0
"""Of the draw of --limit."""
BLUE, ORANGE = "#0072b2", "#d55e00"

DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        exists=True,
        file_okay=False,
        help="Folder of images like those that the model will be asked about, with subfolders; labels are not needed.",
    ),
]
EpsilonOption = Annotated[
    list[float] | None,
    typer.Option(
        "--epsilon",
        "-e",
        help="Share of answers that may differ from those of all views; may be given several times. Takes about "
        "3 / epsilon images, or more.",
        show_default="0.01",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where the calibration goes.", show_default=f"{FILE} beside tta.yaml")
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="At most so many of the images, drawn at random, the same ones each time.")
]
PlotOption = Annotated[
    Path | None, typer.Option(help="Draw views against disagreement into this picture; needs matplotlib.")
]
LogOption = Annotated[
    Path | None, typer.Option(help="Write every image's margin and top class after each view to this CSV file.")
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
    """Learn from images when a model may stop before its last view, and keep it beside its tta.yaml.

    Every image is run through all views of the model's own policy. Requests may then say stop={"epsilon": 0.01}:
    with 95 % confidence at most 0.01 of their answers have another top class than all views would have given.

    Example: tta-server calibrate clothing --data photos --epsilon 0.01 --epsilon 0.002 --plot views.png
    """
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    folder, epsilons = model_folder(settings.models, model), _checked(epsilon or [0.01])
    target = to or folder / FILE
    _check_places(target, plot, log)
    with loading(f"loading {model} ..."):
        loaded = load_uncalibrated(folder)
    with closing(loaded.backend):
        plan = full_plan(loaded)
        paths = _images(data, limit)
        check_enough(len(paths), epsilons[0])
        logs = _logs(plan, paths, settings.limits)
    digest = model_digest(folder, loaded)
    found = learned(logs, epsilons, model=digest, policy=plan.policy.digest, merge=plan.merge)
    write_calibration(target, found)
    out.print(_table(model, found))
    if log:
        _write_log(log, logs)
    if plot:
        _draw(plot, model, logs, found)
    _say_where(target, folder, epsilons[-1], plot, log)


def _checked(epsilons: Sequence[float]) -> list[float]:
    """In order, each once."""
    for epsilon in epsilons:
        if not 0 < epsilon < 1:
            raise InvalidInput(f"--epsilon takes a share between 0 and 1, such as 0.01, not {epsilon:g}")
    return sorted(set(epsilons))


def _check_places(target: Path, plot: Path | None, log: Path | None) -> None:
    """Before an hour of work: raises ConfigError for what could not be written after it."""
    for option, path in (("--out", target), ("--plot", plot), ("--log", log)):
        if path is None:
            continue
        if path.is_dir() or not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
            raise ConfigError(f"{path} can't be written; choose another place with {option}")
    if plot and plot.suffix not in PICTURES:
        raise ConfigError(f"--plot takes a file named {', '.join(PICTURES)}, not {plot}")
    if plot:
        check_plots()


def _images(data: Path, limit: int | None) -> list[Path]:
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InvalidInput(f"{data} holds no images: files named {', '.join(sorted(SUFFIXES))} are looked for")
    if limit is None or limit >= len(paths):
        return paths
    return sorted(random.Random(SEED).sample(paths, limit))


def _logs(plan: Plan, paths: Sequence[Path], limits: Limits) -> Logs:
    """Runs the images; those that can't be are named. Raises InvalidInput if none is left."""
    looked = logged(plan, paths, available_cores(), limits)
    steps = track(looked, "looking", len(paths), console=err, transient=True)
    trails: list[Trail] = []
    skipped: list[Skipped] = []
    for step in steps:
        if isinstance(step, Trail):
            trails.append(step)
        else:
            skipped.append(step)
    for image in skipped[:NAMED]:
        err.print(f"skipped {image.path}: {image.reason}", highlight=False, soft_wrap=True, markup=False)
    if len(skipped) > NAMED:
        err.print(f"skipped {len(skipped)} of {len(paths)} images in all", highlight=False)
    if not trails:
        raise InvalidInput(f"not one of the {len(paths)} images could be used")
    return Logs.of(trails)


def _table(model: str, found: Calibration) -> Table:
    title = f"{model}: {found.views} views, {found.images} images, merge {found.merge}"
    table = Table("epsilon", "threshold", "answers changed", "at most", "mean views", title=title)
    for kept in found.thresholds:
        table.add_row(
            f"{kept.epsilon:g}",
            f"{kept.threshold:.6f}" if kept.threshold <= 1 else "never",
            f"{kept.disagreements} of {found.images}",
            f"{kept.bound:.5f}",
            f"{kept.mean_views:.2f} of {found.views} ({kept.mean_views / found.views:.0%})",
        )
    return table


def _write_log(path: Path, logs: Logs) -> None:
    """One line for each image and number of views merged; `label` is the top class's index."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "views", "margin", "label"])
        for image, (margins, labels) in enumerate(zip(logs.margins, logs.labels, strict=True)):
            rows.writerows([image, k, f"{m:.7g}", c] for k, (m, c) in enumerate(zip(margins, labels, strict=True), 1))


def _say_where(target: Path, folder: Path, epsilon: float, plot: Path | None, log: Path | None) -> None:
    for what, path in (("the curve", plot), ("the margins", log)):
        if path:
            out.print(f"{path}: {what}", highlight=False, soft_wrap=True, markup=False)
    use = f'say stop: {{epsilon: {epsilon:g}}} in tta.yaml, or ?stop={{"epsilon":{epsilon:g}}} in a request'
    if target != folder / FILE:
        use = f"put it beside tta.yaml as {FILE}, and {use}"
    out.print(f"{target}: the calibration; {use}", highlight=False, soft_wrap=True, markup=False)


def _draw(path: Path, model: str, logs: Logs, found: Calibration) -> None:
    """Mean views (x) against the share of changed answers (y) for each threshold; the chosen ones marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    curve = [replay(logs, threshold) for threshold in THRESHOLDS]
    views = [point.mean_views for point in curve]
    bounds = [point.bound for point in curve]
    rates = [point.disagreements / logs.images or math.nan for point in curve]  # a logarithmic axis has no 0
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.fill_between(views, min(bounds) / 4, bounds, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(views, bounds, color=BLUE, label="95 % upper bound")
    axes.plot(views, rates, color=BLUE, linestyle=":", label=f"changed in {logs.images} images")
    for kept in found.thresholds:
        axes.plot(kept.mean_views, kept.bound, "o", color=ORANGE, markersize=7)
        text = f"epsilon {kept.epsilon:g}: {kept.mean_views:.2f} views"
        axes.annotate(text, (kept.mean_views, kept.bound), xytext=(9, 5), textcoords="offset points", color=ORANGE)
    ticks = sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, found.views})
    axes.set_xticks([tick for tick in ticks if tick <= found.views])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4%}".rstrip("0%").rstrip(".") + " %"))
    axes.set(xlim=(0.97, found.views), ylim=(min(bounds) / 4, 2.5 * max(bounds)))
    axes.set_xlabel(f"mean views an image (all: {found.views})")
    axes.set_ylabel("answers that all views would change")
    axes.set_title(f"{model}: when to stop", loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
