"""Results of detection, rendered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.decoding import Pixels
from tta_server.tasks.base import ResponseSpec, Tensors, texts
from tta_server.tasks.boxes.results import CLEAR, DetectionResult
from tta_server.tasks.render.drawing import Drawing
from tta_server.tasks.render.palette import color_of
from tta_server.tasks.render.renderer import Renderer


class DetectionRenderer(Renderer[DetectionResult]):
    def prediction(self, result: DetectionResult, spec: ResponseSpec) -> dict[str, Any]:
        boxes = _merged(result)
        columns = result.found_by.tolist(), result.visible_in.tolist(), _rounded(result.spread, 3)
        for box, found_by, visible_in, spread in zip(boxes, *columns, strict=True):
            box |= {"views": found_by, "of": visible_in, "spread": spread}
        return {"height": result.size.height, "width": result.size.width, "boxes": boxes}

    def views(self, result: DetectionResult) -> list[dict[str, Any]]:
        return [{"boxes": _listed(result.labels, own.label, own.score, own.xyxy)} for own in result.view_boxes]

    def tensors(self, result: DetectionResult, names: frozenset[str]) -> Tensors:
        return {
            "COUNT": np.array([len(result.scores)], np.int32),
            "BOXES": result.boxes,
            "SCORES": result.scores,
            "LABELS": texts([result.labels[index] for index in result.class_ids]),
            "INDICES": result.class_ids.astype(np.int32),
            "VIEWS": result.found_by.astype(np.int32),
            "OF": result.visible_in.astype(np.int32),
            "SPREAD": result.spread,
        }

    def lines(self, result: DetectionResult, top_k: int) -> list[str]:
        found = [box["label"] for box in _merged(result) if box["score"] >= CLEAR]
        counts = {label: found.count(label) for label in result.labels}
        return [f"{n} {label}" for label, n in counts.items() if n] or ["no boxes"]

    def paint(self, result: DetectionResult, pixels: Pixels) -> Pixels:
        """The boxes of at least CLEAR score, the surest last."""
        drawing = Drawing(pixels)
        for box in reversed(_merged(result)):
            if box["score"] >= CLEAR:
                drawing.box(box["box"], color_of(box["index"] + 1), f"{box['label']} {box['score']:.2f}")
        return drawing.pixels


def _merged(result: DetectionResult) -> list[dict[str, Any]]:
    return _listed(result.labels, result.class_ids, result.scores, result.boxes)


def _listed(
    labels: Sequence[str], class_ids: NDArray[np.intp], scores: NDArray[np.float32], boxes: NDArray[np.float32]
) -> list[dict[str, Any]]:
    columns = class_ids.tolist(), _rounded(scores, 6), _rounded(boxes, 3)
    return [
        {"label": labels[index], "index": index, "score": score, "box": box}
        for index, score, box in zip(*columns, strict=True)
    ]


def _rounded(values: NDArray[np.float32], decimals: int) -> list[Any]:
    listed: list[Any] = np.round(values.astype(np.float64), decimals).tolist()
    return listed
