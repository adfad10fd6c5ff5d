"""Tasks by name: a new task is one entry below, and one in `render.rendering`."""

from typing import Any

from tta_server.tasks.base import Accumulator, Description, ImageFrame, ResponseFormat, ResponseSpec, Result, Task
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.tasks.embedding import Embedding, EmbeddingResult
from tta_server.tasks.masks.results import MultilabelSegmentationResult, SegmentationResult
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.regression import Regression, RegressionResult
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.multilabel import Multilabel
from tta_server.tasks.scores.results import ClassificationResult, MultilabelResult
from tta_server.tasks.shapes import Outputs

TASKS: dict[str, type[Task[Any, Any]]] = {
    task.name: task for task in (Classification, Multilabel, Regression, Segmentation, Detection, Keypoints, Embedding)
}

__all__ = [
    "TASKS",
    "Accumulator",
    "ClassificationResult",
    "Description",
    "DetectionResult",
    "EmbeddingResult",
    "ImageFrame",
    "KeypointsResult",
    "MultilabelResult",
    "MultilabelSegmentationResult",
    "Outputs",
    "RegressionResult",
    "ResponseFormat",
    "ResponseSpec",
    "Result",
    "SegmentationResult",
    "Task",
]
