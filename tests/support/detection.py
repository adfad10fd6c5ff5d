"""A detector's outputs, and what becomes of them: boxes are left, top, right, bottom."""

import numpy as np

from tests.support.boxes import RAW, scene_of
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ResponseSpec
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

LABELS = ("bolt", "nut", "screw")
FREE = Preprocessing(normalization=RAW)
IMAGE = Size(100, 80)
THREE = {"boxes": "boxes", "scores": "scores", "labels": "labels"}
SHAPES = {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)}


def task(labels=LABELS, **form):
    return Detection(labels, BoxesOutput(**{**THREE, **form}), SHAPES)


def outputs_of(*rows):
    """A model's outputs for one image: rows of left, top, right, bottom, score and perhaps a class."""
    table = np.array([(*row, 0)[:6] for row in rows], np.float32).reshape(1, -1, 6)
    return {"boxes": table[..., :4], "scores": table[..., 4], "labels": table[..., 5].astype(np.int64)}


def decoded(outputs, spec="identity", image=IMAGE, prep=FREE, detection=None):
    """One view's prediction."""
    return (detection or task()).decode(outputs, 0, prep.place(read_view(spec), image), scene_of(prep, image))


def merged(views, weights=None, merge="wbf", detection=None):
    accumulator = (detection or task()).accumulator(merge, ResponseSpec(), scene_of(FREE, IMAGE))
    for view, weight in zip(views, weights or [1.0] * len(views), strict=True):
        accumulator.add(view, weight)
    return accumulator.result().boxes


def rows_of(boxes):
    """Boxes as (left, top, right, bottom, score, label), rounded to thousandths."""
    table = zip(boxes.xyxy.tolist(), boxes.score.tolist(), boxes.label.tolist(), strict=True)
    return [(*(round(value, 3) for value in (*xyxy, score)), label) for xyxy, score, label in table]


HOLDS = {"box_score_label": 6, "box_class_scores": 7, "box_objectness_class_scores": 8}


def rows_task(holds="box_score_label", transposed=False, **form):
    shape = (None, HOLDS[holds], None) if transposed else (None, None, HOLDS[holds])
    return Detection(LABELS, BoxesOutput(rows="rows", holds=holds, transposed=transposed, **form), {"rows": shape})
