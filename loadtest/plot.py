"""Plots the CSV of an open loop: goodput, SLO attainment, mean K and refusals against offered load.

    python -m loadtest.plot loadtest/results/openloop.csv more.csv ...

plots the rows of all files that have these columns, with one curve for each `mode`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.burst import WINDOW_S, Window
from loadtest.report import Row, read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "goodput_per_s": "goodput: answers in budget / s",
    "slo": "SLO attainment: in budget / admitted (dashed: by the receipt)",
    "mean_views": "mean K: views per answer",
    "refused_share": "refused / offered",
}
COLORS = {"adaptive": "#1f6feb", "fixed": "#d9730d"}
MORE_COLORS = ("#2da44e", "#8250df", "#6e7781")
INK, FAINT = "#24292f", "#d0d7de"


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise SystemExit("plots need matplotlib: pip install 'tta-server[plots]'") from None
    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def check() -> None:
    """Exit if plots can't be drawn, before an hour of measuring."""
    _figure(1, 1)


def draw_sweep(rows: Sequence[Row], path: Path) -> None:
    """Plot one model's rows of phase `sweep`, a curve for each mode, as a PNG."""
    figure = _figure(10, 7)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (name, title) in zip(panels.flat, PANELS.items(), strict=True):
        _dress(axes, title)
        for mode, curve in _by_mode(rows).items():
            axes.plot(*_points(curve, name), marker="o", ms=4, lw=2, label=mode, color=_color(mode, rows))
            if name == "slo" and "slo_by_receipt" in curve[0]:
                axes.plot(*_points(curve, "slo_by_receipt"), lw=1, ls="--", color=_color(mode, rows))
        _scale(axes, name, rows)
    for axes in panels[1]:
        axes.set_xlabel("offered requests / s", fontsize=9, color=INK)
    first = rows[0]
    figure.suptitle(
        f"{first['model']}: K = {first['max_views']}, budget {float(first['budget_ms']):g} ms, stop {first['stop']}; "
        f"1x = {float(first['closed_per_s']):.3g} answers/s of a closed loop with all views",
        color=INK, fontsize=11,
    )  # fmt: skip
    figure.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    figure.savefig(path)


def _points(curve: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    ordered = sorted((float(row["offered_per_s"]), float(row[name])) for row in curve)
    return [x for x, _ in ordered], [y for _, y in ordered]


def _by_mode(rows: Sequence[Row]) -> dict[str, list[Row]]:
    modes = dict.fromkeys(str(row["mode"]) for row in rows)
    return {mode: [row for row in rows if row["mode"] == mode] for mode in modes}


def _color(mode: str, rows: Sequence[Row]) -> str:
    others = [name for name in _by_mode(rows) if name not in COLORS]
    return COLORS.get(mode) or MORE_COLORS[others.index(mode) % len(MORE_COLORS)]


def _dress(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)


def _scale(axes: "Axes", name: str, rows: Sequence[Row]) -> None:
    """Set the limits of a panel's axes; mark the closed loop's rate with a vertical line."""
    most = max(float(row["offered_per_s"]) for row in rows)
    axes.set_xlim(0, most * 1.05)
    axes.axvline(float(rows[0]["closed_per_s"]), color=INK, lw=0.8, ls=":")
    if name == "goodput_per_s":
        _scale_goodput(axes, most, float(rows[0]["closed_per_s"]))
    elif name == "mean_views":
        axes.set_ylim(0, float(rows[0]["max_views"]) * 1.06)
    else:
        least = min((float(row[name]) for row in rows), default=0)
        axes.set_ylim(0 if name != "slo" else min(0.9, math.floor(least * 10) / 10) - 0.01, 1.01)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")


def _scale_goodput(axes: "Axes", most: float, closed: float) -> None:
    axes.set_ylim(0, most * 1.05)
    axes.plot([0, most], [0, most], color=INK, lw=0.8, ls="--", zorder=1)
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": INK}
    axes.annotate("all offered", (most, most), ha="right", xytext=(-12, -2), **look)
    axes.annotate("1x", (closed, most), xytext=(3, 0), **look)


def draw_burst(seen: dict[str, list[Window]], settings: Row, burst_s: float, path: Path) -> None:
    """Plot mean K and answers in windows of half a second, a curve for each mode, the burst shaded, as a PNG."""
    figure = _figure(10, 6)
    views, answers = figure.subplots(2, 1, sharex=True)
    _dress(views, PANELS["mean_views"])
    _dress(answers, "answers / s (dashed: offered)")
    for axes in (views, answers):
        axes.axvspan(-burst_s, 0, color=FAINT, alpha=0.5, lw=0)
    for mode, curve in seen.items():
        middle = [window.t_s + WINDOW_S / 2 for window in curve]
        color = COLORS[mode]
        views.plot(middle, [window.mean_views for window in curve], marker=".", lw=1.5, label=mode, color=color)
        answers.plot(middle, [window.answered / WINDOW_S for window in curve], lw=1.5, color=color)
    offered = next(iter(seen.values()))
    middle = [window.t_s + WINDOW_S / 2 for window in offered]
    answers.plot(middle, [window.offered / WINDOW_S for window in offered], color=INK, lw=0.8, ls="--", zorder=1)
    answers.set_xlabel("seconds after the burst", fontsize=9, color=INK)
    answers.set_ylim(bottom=0)
    views.set_ylim(0, float(settings["max_views"]) * 1.06)
    figure.legend(*views.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    figure.suptitle(
        f"{settings['model']}: a burst of {float(settings['load']):.3g}x; K = {settings['max_views']}, "
        f"budget {float(settings['budget_ms']):g} ms",
        color=INK, fontsize=11,
    )  # fmt: skip
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plot the CSV of an open loop, with other rows for comparison.")
    parser.add_argument("csv", nargs="+", type=Path, help="with the columns of openloop.csv; a curve for each mode")
    parser.add_argument("--out", type=Path, help="folder for the PNGs; default: beside the first CSV")
    args = parser.parse_args()
    rows = [row for path in args.csv for row in read_csv(path)]
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        path = (args.out or args.csv[0].parent) / f"openloop-{model}.png"
        draw_sweep([row for row in rows if row["model"] == model], path)


if __name__ == "__main__":
    main()
