"""Curves of a simulation against offered load, as a picture."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tta_server.errors import ConfigError
from tta_server.simulation.figures import Row

PANELS = {
    "goodput_per_s": "goodput: answers in budget / s",
    "slo": "SLO attainment: in budget / admitted",
    "mean_views": "mean K: views per answer",
    "refused_share": "refused / offered",
}
COLORS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#6e7781", "#cf222e")


def check_plots() -> None:
    """Raises ConfigError, before a long run rather than after it."""
    if not find_spec("matplotlib"):
        raise ConfigError("--plot needs matplotlib, which is not installed: pip install 'tta-server[plots]'")


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """A line for each entry of the traffic and number of slots."""
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
