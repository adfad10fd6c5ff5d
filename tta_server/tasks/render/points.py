"""Results of keypoints, rendered."""

from typing import Any

import numpy as np

from tta_server.imaging.decoding import Pixels
from tta_server.tasks.base import ResponseSpec, Tensors
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.render.drawing import Drawing
from tta_server.tasks.render.palette import color_of
from tta_server.tasks.render.renderer import Renderer


class KeypointsRenderer(Renderer[KeypointsResult]):
    def prediction(self, result: KeypointsResult, spec: ResponseSpec) -> dict[str, Any]:
        return {"height": result.size.height, "width": result.size.width, "keypoints": _listed(result)}

    def views(self, result: KeypointsResult) -> list[dict[str, Any]]:
        return [
            {"keypoints": [[_pixels(x), _pixels(y), _share(confidence)] for x, y, confidence in own]}
            for own in result.view_keypoints
        ]

    def tensors(self, result: KeypointsResult, names: frozenset[str]) -> Tensors:
        return {
            "KEYPOINTS": result.keypoints.astype(np.float32),
            "CONFIDENCE": result.confidence.astype(np.float32),
            "VISIBLE": result.visible,
            "SPREAD": result.spread.astype(np.float32),
            "VIEWS": result.visible_in.astype(np.int32),
        }

    def lines(self, result: KeypointsResult, top_k: int) -> list[str]:
        return [f"{p['label']} {p['x']:.0f}, {p['y']:.0f} ({p['confidence']:.2f})" for p in _listed(result)]

    def paint(self, result: KeypointsResult, pixels: Pixels) -> Pixels:
        """The visible points."""
        drawing = Drawing(pixels)
        found = enumerate(_listed(result), start=1)
        drawing.points([(p["x"], p["y"], color_of(index), p["label"]) for index, p in found if p["visible"]])
        return drawing.pixels


def _listed(result: KeypointsResult) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "x": _pixels(result.keypoints[j, 0]),
            "y": _pixels(result.keypoints[j, 1]),
            "confidence": _share(result.confidence[j]),
            "visible": bool(result.visible[j]),
            "spread": _pixels(result.spread[j]),
            "views": int(result.visible_in[j]),
        }
        for j, label in enumerate(result.labels)
    ]


def _pixels(value: float) -> float:
    return round(float(value), 3)


def _share(value: float) -> float:
    return round(float(value), 6)
