"""The contact sheet: every view as the model sees it, its own prediction, and the merged answer."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tta_server.errors import InvalidInput
from tta_server.imaging.decoding import Limits, Pixels
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.placement import Placement
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.model import Model
from tta_server.serving.image import read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.run_views import run_views
from tta_server.tasks import Result
from tta_server.tasks.masks.results import MaskResult
from tta_server.tasks.render.palette import grey
from tta_server.tasks.render.rendering import DRAWING, lines_of, renderer_of
from tta_server.views.view import View

CELL = 224
"""Pixels of the longer side of a view on the sheet."""
LINES = 4
"""At most, of a prediction."""
CAPTION = "Each view as the model sees it, and what the model says of it alone, moved back. Last: merged."
MARGIN = 16
TITLE = 58
GAP = 6
LINE = 19
COLUMNS = 5
INK, FAINT, PAPER, FRAME = (32, 32, 32), (110, 110, 110), (255, 255, 255), (0, 114, 178)


@dataclass(frozen=True, slots=True)
class Panel:
    """A column of pictures with lines of text below."""

    pictures: tuple[Image.Image, ...]
    lines: tuple[str, ...]
    framed: bool = False


def draw_sheet(
    model: Model, encoded: bytes, policy: str | None, merge: str | None, limits: Limits | None = None
) -> Image.Image:
    """Runs every view of the policy, one by one, and draws them. Raises TTAError as a request would."""
    include = frozenset(["views", "agreement", "uncertainty"]) & frozenset(model.task.includes)
    plan = make_plan(model, Options(policy=policy, merge=merge, min_views="all", stop="all", include=include))
    limits = limits or Limits()
    source = read_source(encoded, limits, model.preprocessing.rendering)
    model.preprocessing.check(plan.views, source.size, limits)
    layout = make_layout(plan, source.size)
    if layout.tiles > 1:
        raise InvalidInput(f"the image is {source.size}, which takes {layout.tiles} tiles: too many to draw")
    pixels = source.open().pixels
    seen = run_views(plan, source)
    scene = seen.views.frame
    merged = model.task.accumulator(plan.merge, plan.wanted, scene)
    cells, kept = [], []
    rows = zip(plan.views, layout.placements, seen.predictions, strict=True)
    for index, (view, placement, prediction) in enumerate(rows):
        merged.add(prediction, view.weight)
        kept.append(model.task.view_result(prediction))
        alone = model.task.accumulator(plan.merge, plan.wanted, scene)
        alone.add(prediction, 1.0)
        own = model.task.result(alone.result(), kept[-1:], scene, plan.wanted)
        pictures = (as_seen(model.preprocessing, pixels, view, placement), *_painted(model, pixels, own))
        words = (f"{index + 1}. {view.name}", _weight(view.weight), *lines_of(own, plan.wanted.top_k)[:LINES])
        cells.append(Panel(tuple(map(_fit, pictures)), words))
    result = model.task.result(merged.result(), kept, scene, plan.wanted)
    return _compose(_title(model, plan), CAPTION, [*cells, _last(model, plan, pixels, result)])


def _painted(model: Model, pixels: Pixels, result: Result) -> list[Image.Image]:
    """The result painted on the image, where it has a place on it."""
    if DRAWING not in model.task.includes:
        return []
    return [Image.fromarray(renderer_of(result).paint(result, pixels))]


def _last(model: Model, plan: Plan, pixels: Pixels, result: Result) -> Panel:
    """The merged result, where the views agree on it, and how far they do."""
    pictures = _painted(model, pixels, result) or [Image.fromarray(pixels)]
    if isinstance(result, MaskResult) and result.agreement is not None:
        pictures.append(grey(result.agreement))
    unsure = [f"{key.replace('_', ' ')} {v:.4g}" for key, v in result.uncertainty.items() if isinstance(v, float)]
    merged = lines_of(result, plan.wanted.top_k)[:LINES]
    words = ("merged", f"{plan.merge} of {len(plan.views)}", *merged, *unsure)
    return Panel(tuple(map(_fit, pictures)), words, framed=True)


def as_seen(model_sees: Preprocessing, pixels: Pixels, view: View, placement: Placement) -> Image.Image:
    """A view as the model sees it, before normalisation."""
    prep = replace(model_sees, dtype=np.dtype(np.uint8), normalization=Normalization(), layout="NHWC")
    batch = prep.empty(1, placement.tensor)
    prep.write(prep.canvas(pixels, view.scale), view, placement, batch[0])
    shown = batch[0][..., ::-1] if prep.channels is Channels.BGR else batch[0]
    return Image.fromarray(np.ascontiguousarray(shown.squeeze(axis=2) if prep.depth == 1 else shown))


def _weight(weight: float | tuple[float, ...]) -> str:
    return "weight by class" if isinstance(weight, tuple) else f"weight {weight:g}"


def _fit(picture: Image.Image) -> Image.Image:
    """Resized so that the longer side is CELL; pixels of small images stay visible."""
    factor = CELL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    return picture.convert("RGB").resize(size, how)


def _title(model: Model, plan: Plan) -> str:
    return f"{model.name}: {model.task.name}, policy {plan.policy.name}, {len(plan.views)} views"


def _compose(title: str, caption: str, panels: list[Panel]) -> Image.Image:
    columns = -(-len(panels) // -(-len(panels) // COLUMNS))  # the fewest rows of at most COLUMNS, as even as possible
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    tops = list(accumulate((_height(row) for row in rows), initial=MARGIN + TITLE))
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, tops[-1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(20))
    draw.text((MARGIN, MARGIN + 28), caption, FAINT, ImageFont.load_default(14))
    for row, top in zip(rows, tops, strict=False):
        for column, panel in enumerate(row):
            _place(sheet, draw, panel, MARGIN + column * (CELL + MARGIN), top)
    return sheet


def _height(row: list[Panel]) -> int:
    """Of the highest panel, with the margin below."""
    return MARGIN + max(sum(p.height + GAP for p in panel.pictures) + LINE * len(panel.lines) for panel in row)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    for picture in panel.pictures:
        if panel.framed:
            box = (left - 3, top - 3, left + picture.width + 2, top + picture.height + 2)
            draw.rectangle(box, outline=FRAME, width=3)
        sheet.paste(picture, (left, top))
        top += picture.height + GAP
    font = ImageFont.load_default(14)
    for number, line in enumerate(panel.lines):
        ink = (FRAME if panel.framed else INK) if number == 0 else FAINT
        draw.text((left, top + number * LINE), _clipped(draw, line, font), ink, font)


def _clipped(draw: ImageDraw.ImageDraw, line: str, font: Any) -> str:
    """The line, shortened to the width of a panel."""
    if draw.textlength(line, font) <= CELL:
        return line
    while draw.textlength(line + "...", font) > CELL:
        line = line[:-1]
    return line + "..."
