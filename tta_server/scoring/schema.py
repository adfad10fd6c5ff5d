"""What the format of a run's results must know of its model and options."""

from collections.abc import Sequence
from dataclasses import dataclass

from tta_server.serving.plan import Plan


@dataclass(frozen=True, slots=True)
class Schema:
    """`task` is a name such as detection; `dimensions` the length of embeddings, None where the file leaves it open."""

    task: str
    model: str
    labels: Sequence[str] = ()
    masks: str = "png"
    dimensions: int | None = None


def schema_of(plan: Plan) -> Schema:
    task = plan.model.task
    lengths = [spec.shape[0] for spec in task.tensor_specs if spec.name == "EMBEDDING"]
    return Schema(task.name, plan.model.name, tuple(task.labels), plan.wanted.masks, next(iter(lengths), None))
