"""Tasks by name: a new task is one file here and one entry below."""

from typing import Any

from tta_server.tasks.base import Accumulator, Answered, Outputs, Scene, Task, Wanted
from tta_server.tasks.classification import Classification
from tta_server.tasks.detection import Detection
from tta_server.tasks.embedding import Embedding
from tta_server.tasks.keypoints import Keypoints
from tta_server.tasks.multilabel import Multilabel
from tta_server.tasks.regression import Regression
from tta_server.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task[Any]]] = {
    task.name: task for task in (Classification, Multilabel, Regression, Segmentation, Detection, Keypoints, Embedding)
}

__all__ = ["TASKS", "Accumulator", "Answered", "Outputs", "Scene", "Task", "Wanted"]
