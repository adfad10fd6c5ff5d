"""A class for every pixel: scores (N, C, h, w) at the input's size or a fraction of it -> a label mask."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import ConfigError, InvalidInput
from tta_server.geometry import Affine, Size
from tta_server.preprocessing import Placement
from tta_server.resampling import sample
from tta_server.tasks.base import Answered, Outputs, Remaining, Scene, Wanted
from tta_server.tasks.merging import (
    KINDS,
    MERGES,
    SLACK,
    Kind,
    ScoreAccumulator,
    check_bounded,
    check_kind,
    is_finite,
)
from tta_server.views import Border, Weight

Floats = NDArray[np.float32]
Remark = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.bool_] | None]
"""A view's own labels (h, w), and what of the grid it saw; None for all."""

STRIP = 128
"""Rows of the image that are enlarged at a time."""

EDGE = 1e-4
"""Cells by which rounding may put a point outside the frame that it lies on the edge of."""

PALETTE = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Colours of the mask for eyes (Okabe and Ito 2008, told apart by the colour-blind too); then hues go round."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Scores or probabilities (C, h, w) on the plain view's grid, a cell every `stride` (x, y) pixels of its frame.

    `coverage` (h, w) is None where the view saw all of it. `votes` (C, h, w) holds each class's share of the views'
    votes, where agreement was asked for.
    """

    scores: Floats
    coverage: Floats | None = None
    votes: Floats | None = None
    stride: tuple[float, float] = (1.0, 1.0)


class MapAccumulator:
    """A ScoreAccumulator on maps, and a second one for votes where agreement was asked for."""

    def __init__(self, scores: ScoreAccumulator, votes: ScoreAccumulator | None, scene: Scene) -> None:
        self._scores = scores
        self._votes = votes
        self._scene = scene
        self._stride = (1.0, 1.0)

    def add(self, prediction: Maps, weight: Weight) -> None:
        self._scores.add(prediction.scores, weight, prediction.coverage)
        if self._votes:
            self._votes.add(prediction.scores, weight, prediction.coverage)
        self._stride = prediction.stride

    def result(self) -> Maps:
        votes = self._votes.result() if self._votes else None
        return Maps(self._scores.result(), votes=votes, stride=self._stride)

    def margin(self) -> float:
        return 0.0

    def undecided(self, remaining: Remaining) -> float:
        """The share of the image's pixels, judged at its own size as the mask is."""
        left = self._left(remaining)
        least, most = self._scores.bounds(left)
        reach = (most - least)[:1]  # the same for each class
        if float(reach.min()) >= 0.5:
            return 1.0  # more weight is to come than came: no lead suffices
        pixels = self._scene.image
        decided = 0
        for _, strip in _enlarged(np.concatenate([least, reach]), self._stride, self._scene):
            decided += int(np.count_nonzero(_leads(strip[:-1]) - strip[-1] > SLACK))
        return 1 - decided / pixels.area

    def _left(self, remaining: Remaining) -> Floats:
        """The weight still to come, a number or a map (h, w) where some of the views see only a part."""
        left = np.zeros((), np.float32)
        for placement, weight in remaining:
            to_scores, grid = _undo(placement, self._scene.plain, self._stride)
            seen = _coverage(placement, self._scene.plain, to_scores, grid, self._stride)
            left = left + np.float32(weight) * (1 if seen is None else seen)  # type: ignore[arg-type]
        return left


class Segmentation:
    name = "segmentation"
    merges: Sequence[str] = tuple(MERGES)
    stops: Sequence[str] = ("all", "certain", "open")
    includes: Sequence[str] = ("views", "agreement", "probabilities")
    has_picture = True

    def __init__(self, labels: Sequence[str], kind: str, output: str) -> None:
        self.labels = tuple(labels)
        self._kind: Kind = KINDS[kind]
        self._output = output

    def check(self, outputs: Outputs) -> None:
        """Raises ConfigError unless a run gave [N, C, h, w]."""
        shape, labels = outputs[self._output].shape, len(self.labels)
        if len(shape) != 4 or shape[1] != labels:
            raise ConfigError(
                f"segmentation with {labels} labels needs an output {self._output} of shape [N, {labels}, h, w]; "
                f"the model gives {list(shape)}"
            )
        check_kind(self._kind, outputs[self._output])

    def decode(self, outputs: Outputs, row: int, placement: Placement, scene: Scene) -> Maps:
        scores = outputs[self._output][row].astype(np.float32, copy=False)
        tensor = placement.tensor
        stride = tensor.width / scores.shape[2], tensor.height / scores.shape[1]
        to_scores, grid = _undo(placement, scene.plain, stride)
        moved: Floats = sample(scores, to_scores, grid, Border.REPLICATE)  # type: ignore[assignment]
        return Maps(moved, _coverage(placement, scene.plain, to_scores, grid, stride), stride=stride)

    def is_sound(self, prediction: Maps) -> bool:
        return is_finite(prediction.scores)

    def accumulator(self, merge: str, wanted: Wanted, scene: Scene) -> MapAccumulator:
        votes = "agreement" in wanted.include
        return MapAccumulator(
            ScoreAccumulator(MERGES[merge], self._kind),
            ScoreAccumulator(MERGES["vote"], self._kind) if votes else None,
            scene,
        )

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        """Weights by class are made to sum to 1 in each cell, which no bound outlasts when cells are interpolated."""
        check_bounded(merge)
        if any(isinstance(weight, tuple) for weight in weights):
            raise InvalidInput("no pixel is certain before the last view where views have a weight for each class")

    def confidence(self, merged: Maps) -> float:
        return float(merged.scores.max(axis=0).mean())

    def keeps_remarks(self, wanted: Wanted) -> bool:
        return "views" in wanted.include

    def remark(self, prediction: Maps) -> Remark:
        own = prediction.scores.argmax(axis=0).astype(np.uint8 if len(self.labels) <= 256 else np.uint16)
        return own, None if prediction.coverage is None else prediction.coverage > 0

    def remark_bytes(self, plain: Placement) -> int:
        return (2 if len(self.labels) <= 256 else 3) * plain.frame.area

    def answer(
        self,
        merged: Maps,
        remarks: Sequence[Remark],
        scene: Scene,
        wanted: Wanted,
    ) -> Answered:
        mask = np.empty((scene.image.height, scene.image.width), np.uint16)
        for rows, strip in _enlarged(merged.scores, merged.stride, scene):
            mask[rows] = strip.argmax(axis=0)
        counts = np.bincount(mask.ravel(), minlength=len(self.labels))
        picture = _png(_palette_image(mask, len(self.labels)))
        prediction: dict[str, Any] = {
            "height": scene.image.height,
            "width": scene.image.width,
            "area": {label: int(n) for label, n in zip(self.labels, counts, strict=True)},
            "mask": _base64(picture),
        }
        if merged.votes is not None:
            shares = _at_labels(merged, scene, mask)
            prediction["mean_agreement"] = float(shares.mean())
            prediction["agreement"] = _base64(_png(_grey8(shares)))
        if "probabilities" in wanted.include:
            prediction["probabilities"] = self._probability_pictures(merged, scene)
        labels = merged.scores.argmax(axis=0)
        views = [{"agreement": _same_share(remark, labels)} for remark in remarks]
        return Answered(prediction, views, picture)

    def _probability_pictures(self, merged: Maps, scene: Scene) -> dict[str, str]:
        """Label -> base64 of a 16 bit grey PNG, 65535 for certainty."""
        pictures = {}
        for index, label in enumerate(self.labels):
            levels = np.empty((scene.image.height, scene.image.width), np.uint16)
            for rows, strip in _enlarged(merged.scores[index : index + 1], merged.stride, scene):
                levels[rows] = np.rint(np.clip(strip[0], 0, 1) * 65535)
            pictures[label] = _base64(_png(Image.fromarray(levels)))
        return pictures


def _undo(placement: Placement, plain: Placement, stride: tuple[float, float]) -> tuple[Affine, Size]:
    """Plain view's grid -> a view's score map, and the grid's size."""
    grid = Size(ceil(plain.frame.width / stride[0]), ceil(plain.frame.height / stride[1]))
    cell = Affine.stretch(*stride)
    to_scores = cell.then(placement.to_plain.inverse()).then(Affine.shift(*placement.inset)).then(cell.inverse())
    return to_scores, grid


def _coverage(
    placement: Placement, plain: Placement, to_scores: Affine, grid: Size, stride: tuple[float, float]
) -> Floats | None:
    """1 where a grid cell's centre lies inside the view's frame, else 0; None where all do.

    A last cell that reaches beyond the plain frame is judged by the frame's edge.
    """
    x = np.minimum(np.arange(0.5, grid.width, dtype=np.float32), np.float32(plain.frame.width / stride[0]))
    y = np.minimum(np.arange(0.5, grid.height, dtype=np.float32), np.float32(plain.frame.height / stride[1]))
    left, top = placement.inset[0] / stride[0] - EDGE, placement.inset[1] / stride[1] - EDGE
    right = left + placement.frame.width / stride[0] + 2 * EDGE
    bottom = top + placement.frame.height / stride[1] + 2 * EDGE
    corners = to_scores.apply(np.array([(x[0], y[0]), (x[-1], y[0]), (x[0], y[-1]), (x[-1], y[-1])]))
    if np.all(corners >= (left, top)) and np.all(corners <= (right, bottom)):
        return None  # what lies between them lies inside too
    seen = _between(left, (to_scores.xx, to_scores.xy, to_scores.tx), x, y, right)
    seen &= _between(top, (to_scores.yx, to_scores.yy, to_scores.ty), x, y, bottom)
    return seen.astype(np.float32)


def _between(low: float, row: tuple[float, float, float], x: Floats, y: Floats, high: float) -> NDArray[np.bool_]:
    """Where one coordinate of the mapped grid lies between two lines, (len(y), len(x))."""
    a, b, c = (np.float32(v) for v in row)
    found = a * x + (b * y[:, None] + c)
    return (found >= low) & (found <= high)


def _enlarged(maps: Floats, stride: tuple[float, float], scene: Scene) -> Iterator[tuple[slice, Floats]]:
    """`maps` (C, h, w) on the plain grid, at the image's own size, a strip of rows at a time."""
    image, plain = scene.image, scene.plain
    to_grid = (
        Affine.stretch(plain.canvas.width / image.width, plain.canvas.height / image.height)
        .then(plain.to_canvas.inverse())
        .then(Affine.stretch(1 / stride[0], 1 / stride[1]))
    )
    for top in range(0, image.height, STRIP):
        size = Size(image.width, min(STRIP, image.height - top))
        to_strip = Affine.shift(0, top).then(to_grid)
        yield slice(top, top + size.height), sample(maps, to_strip, size, Border.REPLICATE)  # type: ignore[misc]


def _leads(scores: Floats) -> Floats:
    """How far the top class of each pixel is ahead of the second, (C, h, w) -> (h, w)."""
    top: Floats = scores.max(axis=0)
    if len(scores) == 1:
        return top
    others = scores.copy()
    np.put_along_axis(others, scores.argmax(axis=0)[None], -np.inf, axis=0)
    leads: Floats = top - others.max(axis=0)
    return leads


def _at_labels(merged: Maps, scene: Scene, mask: NDArray[np.uint16]) -> Floats:
    """Share of the views' votes for the label that each pixel got, (H, W)."""
    shares = np.empty(mask.shape, np.float32)
    assert merged.votes is not None
    for rows, strip in _enlarged(merged.votes, merged.stride, scene):
        shares[rows] = np.take_along_axis(strip, mask[rows][None].astype(np.intp), axis=0)[0]
    return shares


def _same_share(remark: Remark, labels: NDArray[np.intp]) -> float | None:
    """Share of the cells that a view saw where its own label is the merged one; None if it saw none."""
    own, seen = remark
    agrees = own == labels if seen is None else (own == labels)[seen]
    return float(agrees.mean()) if agrees.size else None


def _palette_image(mask: NDArray[np.uint16], classes: int) -> Image.Image:
    """Class indices as a palette PNG (16 bit grey above 256 classes): indices for programs, colours for eyes."""
    if classes > 256:
        return Image.fromarray(mask)
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([v for i in range(classes) for v in color_of(i)])
    return image


def color_of(index: int) -> tuple[int, int, int]:
    """RGB of a class in masks and drawings."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = index * 137.508 % 360  # the golden angle keeps neighbours apart
    sector, part = divmod(hue / 60, 1)
    levels = [230, int(230 * part), int(230 * (1 - part)), 40]
    order = [(0, 1, 3), (2, 0, 3), (3, 0, 1), (3, 2, 0), (1, 3, 0), (0, 3, 2)][int(sector)]
    return levels[order[0]], levels[order[1]], levels[order[2]]


def _grey8(shares: Floats) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
