"""Tasks by name: a new task is one file here and one entry below."""

from tta_server.tasks.base import Accumulator, Answered, Outputs, Scene, Task, Wanted
from tta_server.tasks.classification import Classification
from tta_server.tasks.segmentation import Segmentation

TASKS = {task.name: task for task in (Classification, Segmentation)}

__all__ = ["TASKS", "Accumulator", "Answered", "Outputs", "Scene", "Task", "Wanted"]
