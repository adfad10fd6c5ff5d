"""What detection answers, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

from tta_server.tasks.base import Result
from tta_server.tasks.boxes.fusion import Boxes, Single
from tta_server.tasks.boxes.grouping import Indices
from tta_server.views.geometry import Size

CLEAR = 0.3
"""Least score of a box that drawings and summaries show, and that counts where views' numbers of boxes are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionResult(Result):
    """N objects in an image of `size`, by falling score.

    `boxes` (N, 4) float32: left, top, right, bottom in the image's pixels. `scores` (N,) float32 in [0, 1].
    `class_ids` (N,) intp index `labels`. `found_by` (N,) intp: how many views have a box of the object; `visible_in`
    (N,) intp: how many could have, or do. `spread` (N,) float32: how far the views' boxes lie from the merged one in
    pixels. `view_boxes`: each view's own, in the image's pixels.
    """

    labels: Sequence[str]
    size: Size
    boxes: Single
    scores: Single
    class_ids: Indices
    found_by: Indices
    visible_in: Indices
    spread: Single
    view_boxes: Sequence[Boxes]
