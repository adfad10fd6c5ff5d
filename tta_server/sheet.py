"""The contact sheet: every view as the model sees it, what the model says of it, and what they come to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tta_server.deadline import Deadline
from tta_server.images import Limits, Pixels
from tta_server.metrics import Metrics
from tta_server.plan import Options, Plan, make_plan
from tta_server.predictor import make_job, read_source
from tta_server.preprocessing import Channels, Normalization
from tta_server.repository import Model
from tta_server.tasks import Answered, Scene
from tta_server.tasks.segmentation import color_of
from tta_server.work import ImageWork, ModelRunner

CELL = 224
"""Pixels of the longer side of a view on the sheet."""
MARGIN = 16
LINE = 19
COLUMNS = 5
INK, FAINT, PAPER, FRAME = (32, 32, 32), (110, 110, 110), (255, 255, 255), (0, 114, 178)


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture with lines of text under it, the first in bold ink."""

    picture: Image.Image
    lines: tuple[str, ...]
    framed: bool = False


def draw_sheet(model: Model, encoded: bytes, policy: str | None, merge: str | None) -> Image.Image:
    """Runs every view of the policy, one by one, and draws them. Raises TTAError as a request would."""
    plan = make_plan(
        model,
        Options(policy=policy, merge=merge, min_views="all", include=frozenset(["views", "agreement"])),
    )
    source = read_source(encoded, Limits())
    model.preprocessing.check(plan.views, source.size, Limits())
    work = make_job(plan, source, Deadline.after(plan.budget_ms), "sheet", Metrics()).work
    work.decode()
    pixels = source.open()
    scene = Scene(source.size, work.layout.placements[0])
    accumulator = model.task.accumulator(plan.merge, plan.wanted)
    drawing, cells, remarks = DRAWINGS[model.task.name], [], []
    for index, view in enumerate(plan.views):
        outputs = ModelRunner(model).infer([(work, index)])
        prediction = model.task.decode(outputs, 0, work.layout.placements[index], scene)
        accumulator.add(prediction, view.weight)
        remarks.append(model.task.remark(prediction))
        alone = model.task.accumulator(plan.merge, plan.wanted)
        alone.add(prediction, 1.0)
        own = model.task.answer(alone.result(), remarks[-1:], scene, plan.wanted)
        seen = as_seen(work, index)
        cells += drawing(f"{index + 1}. {view.name}", _weight(view.weight), seen, pixels, own)
    merged = model.task.answer(accumulator.result(), remarks, scene, plan.wanted)
    cells += [
        replace(cell, framed=True)
        for cell in drawing("merged", f"{plan.merge} of {len(remarks)}", None, pixels, merged)
    ]
    return _compose(_title(model, plan), cells)


def as_seen(work: ImageWork, index: int) -> Image.Image:
    """A view as the model sees it, before normalisation."""
    prep = replace(work.model.preprocessing, dtype=np.dtype(np.uint8), normalization=Normalization(), layout="NHWC")
    placement = work.layout.placements[index]
    (row,) = batch = prep.empty(1, placement.tensor)
    work.write_as(prep, index, row)
    shown = batch[0][..., ::-1] if prep.channels is Channels.BGR else batch[0]
    return Image.fromarray(np.ascontiguousarray(shown.squeeze(axis=2) if prep.depth == 1 else shown))


def _weight(weight: float | tuple[float, ...]) -> str:
    return "weight by class" if isinstance(weight, tuple) else f"weight {weight:g}"


def _classified(name: str, weight: str, seen: Image.Image | None, pixels: Pixels, own: Answered) -> list[Cell]:
    """The view and its top classes; the image itself for the merged answer."""
    lines = [f"{top['label']} {top['probability']:.3f}" for top in own.prediction["top"][:3]]
    if seen is None:
        lines.append(f"{own.prediction['agreement']:.0%} of views agree")
    return [Cell(_fit(seen or Image.fromarray(pixels)), (name, weight, *lines))]


def _segmented(name: str, weight: str, seen: Image.Image | None, pixels: Pixels, own: Answered) -> list[Cell]:
    """The view, then its own mask moved back onto the image; mask and agreement for the merged answer."""
    whole = own.prediction["height"] * own.prediction["width"]
    lines = [f"{label} {n / whole:.1%}" for label, n in list(own.prediction["area"].items())[1:4]]
    on_image = Cell(_fit(_overlaid(pixels, own)), (f"{name}: mask on the image", weight, *lines))
    if seen is not None:
        return [Cell(_fit(seen), (name, "as the model sees it")), on_image]
    share = own.prediction["mean_agreement"]
    agreement = Cell(
        _fit(_decoded(own.prediction["agreement"])), ("agreement", f"mean {share:.2%}", "white: all views agree")
    )
    return [on_image, agreement]


DRAWINGS: dict[str, Callable[[str, str, Image.Image | None, Pixels, Answered], list[Cell]]] = {
    "classification": _classified,
    "segmentation": _segmented,
}
"""How each task is drawn: name, weight, the view (None for the merged answer), the image, what was said -> cells."""


def _decoded(encoded: str) -> Image.Image:
    import base64
    import io

    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def _overlaid(pixels: Pixels, own: Answered) -> Image.Image:
    """The image with every class but the first painted over it, half transparent."""
    mask = np.asarray(_decoded(own.prediction["mask"]))
    colors = np.array([color_of(i) for i in range(max(len(own.prediction["area"]), 1))], np.uint8)
    painted: NDArray[Any] = (pixels * 0.45 + colors[mask] * 0.55).astype(np.uint8)
    return Image.fromarray(np.where((mask > 0)[..., None], painted, pixels))


def _fit(picture: Image.Image) -> Image.Image:
    """Enlarged or shrunk so that the longer side is CELL; pixels of small images stay visible."""
    factor = CELL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    return picture.convert("RGB").resize(size, how)


def _title(model: Model, plan: Plan) -> str:
    return f"{model.name}: {model.task.name}, policy {plan.policy.name}, {len(plan.views)} views"


def _compose(title: str, cells: list[Cell]) -> Image.Image:
    columns = min(COLUMNS if len(cells) % 4 else 4, len(cells))
    lines = max(len(cell.lines) for cell in cells)
    tall = max(cell.picture.height for cell in cells)
    width, height = CELL + MARGIN, tall + LINE * lines + 2 * MARGIN
    rows = -(-len(cells) // columns)
    top = MARGIN + 34
    sheet = Image.new("RGB", (columns * width + MARGIN, top + rows * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(20))
    for number, cell in enumerate(cells):
        _place(sheet, draw, cell, MARGIN + number % columns * width, top + number // columns * height, tall)
    return sheet


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, left: int, top: int, tall: int) -> None:
    sheet.paste(cell.picture, (left, top))
    if cell.framed:
        box = (left - 3, top - 3, left + cell.picture.width + 2, top + cell.picture.height + 2)
        draw.rectangle(box, outline=FRAME, width=3)
    font = ImageFont.load_default(14)
    for number, line in enumerate(cell.lines):
        ink = (FRAME if cell.framed else INK) if number == 0 else FAINT
        draw.text((left, top + tall + 6 + number * LINE), _clipped(draw, line, font), ink, font)


def _clipped(draw: ImageDraw.ImageDraw, line: str, font: Any) -> str:
    """The line, shortened to the width of a cell."""
    if draw.textlength(line, font) <= CELL:
        return line
    while draw.textlength(line + "...", font) > CELL:
        line = line[:-1]
    return line + "..."
