"""Pictures of what simulations and calibrations found; they need matplotlib."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tta_server.calibration.fit import THRESHOLDS, Runs, apply_threshold
from tta_server.errors import ConfigError
from tta_server.repository.calibration import Calibration
from tta_server.simulation.figures import Row

PANELS = {
    "goodput_per_s": "goodput: answers in budget / s",
    "slo": "SLO attainment: in budget / admitted",
    "mean_views": "mean K: views per answer",
    "refused_share": "refused / offered",
}
BLUE, ORANGE = "#0072b2", "#d55e00"
COLORS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#6e7781", "#cf222e")


def check_plots() -> None:
    """Raises ConfigError without matplotlib."""
    if not find_spec("matplotlib"):
        raise ConfigError("--plot needs matplotlib, which is not installed: pip install 'tta-server[plots]'")


def draw_load_curves(path: Path, rows: Sequence[Row]) -> None:
    """Figures against offered load: a line for each entry of the traffic and number of slots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=130, layout="constrained")
    lines = list(dict.fromkeys((str(row["model"]), row["slots"]) for row in rows))
    for axes, (name, what) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        for number, (model, slots) in enumerate(lines):
            points = sorted(
                (float(row["offered_per_s"]), float(row[name]))
                for row in rows
                if (row["model"], row["slots"]) == (model, slots)
            )
            label = f"{model}, {slots} slot{'s' * (slots != 1)}"
            color = COLORS[number % len(COLORS)]
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=2, label=label, color=color)
        axes.set_title(what, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#d0d7de", lw=0.6)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.03 if name == "slo" else None)
    for axes in figure.axes[2:]:
        axes.set_xlabel("offered / s", fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path)


def draw_stopping_curve(path: Path, model: str, runs: Runs, found: Calibration) -> None:
    """Mean views (x) against the share of changed answers (y) for every threshold; marks the chosen ones."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    curve = [apply_threshold(runs, threshold) for threshold in THRESHOLDS]
    views = [point.mean_views for point in curve]
    bounds = [point.bound for point in curve]
    rates = [point.disagreements / runs.images or math.nan for point in curve]  # a logarithmic axis has no 0
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.fill_between(views, min(bounds) / 4, bounds, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(views, bounds, color=BLUE, label="95 % upper bound")
    axes.plot(views, rates, color=BLUE, linestyle=":", label=f"changed in {runs.images} images")
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
