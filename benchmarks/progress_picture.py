"""Draws docs/scoring.svg: the bar of a real run of `tta-server score` over a folder of images, when half of it is done.

python benchmarks/progress_picture.py PHOTOS [--model clothing] [--picture docs/scoring.svg]
"""

import argparse
import re
import sys
import tempfile
from io import StringIO
from pathlib import Path

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import RenderableType

from benchmarks.server import MODELS
from tta_server.cli import main, score, score_progress
from tta_server.cli.console import PlainConsole
from tta_server.scoring.batches import Scored

WIDTH = 96
"""Columns of the terminal."""
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
"""Of rich's picture: a viewer's own fixed-width font is used, and none is fetched."""


class Pictured(score_progress.ScoreProgress):
    """The bar, which keeps what it shows at the middle of a run."""

    shown: RenderableType = ""

    def add(self, scored: Scored) -> None:
        super().add(scored)
        if not Pictured.shown and 2 * self._bar.tasks[0].completed >= self.total:
            Pictured.shown = self._bar.get_renderable()


def run(photos: Path, model: str) -> None:
    """Runs the command in this process, on a terminal that is not shown."""
    terminal = PlainConsole(force_terminal=True, width=WIDTH, file=StringIO())
    with tempfile.TemporaryDirectory() as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_progress, "err", terminal)
        patch.setattr(score, "ScoreProgress", Pictured)
        words = ["score", photos, "--model", MODELS / model, "--out", Path(out) / "scores"]
        patch.setattr(sys, "argv", ["tta-server", *map(str, words)])
        try:
            main.app()
        except SystemExit as end:
            if end.code:
                raise


def picture(command: str) -> str:
    recorder = PlainConsole(record=True, force_terminal=True, width=WIDTH, file=StringIO())
    recorder.print(f"$ {command}")
    recorder.print(Pictured.shown)
    return recorder.export_svg(title="tta-server score", code_format=FONTS.sub("", CONSOLE_SVG_FORMAT), unique_id="bar")


def draw() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="clothing")
    parser.add_argument("--picture", type=Path, default=MODELS.parent / "docs" / "scoring.svg")
    args = parser.parse_args()
    run(args.photos, args.model)
    args.picture.write_text(picture(f"tta-server score photos --model {args.model} --out scores"))


if __name__ == "__main__":
    draw()
