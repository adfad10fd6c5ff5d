"""Tasks by name: a new task is one file here and one entry below."""

from typing import Any

from tta_server.tasks.base import Accumulator, ImageFrame, Outputs, ResponseFormat, ResponseSpec, Result, Task
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.embedding import Embedding
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.regression import Regression
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.multilabel import Multilabel

TASKS: dict[str, type[Task[Any, Any]]] = {
    task.name: task for task in (Classification, Multilabel, Regression, Segmentation, Detection, Keypoints, Embedding)
}

__all__ = ["TASKS", "Accumulator", "ImageFrame", "Outputs", "ResponseFormat", "ResponseSpec", "Result", "Task"]
