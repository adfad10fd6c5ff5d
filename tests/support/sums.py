"""Views merged by sums of a graph, beside views merged one by one."""

from typing import Any

import numpy as np

from tta_server.backends.graphs import GraphSession
from tta_server.compiled.tails import tail
from tta_server.repository.graphs import owner_matrix
from tta_server.tasks import ResponseSpec
from tta_server.tasks.embedding import Embedding, VectorOutput
from tta_server.tasks.regression import Regression, ValuesOutput
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import LabelsOutput, ScoresOutput
from tta_server.tasks.scores.multilabel import Multilabel
from tta_server.tasks.sums import Sums

LABELS = ("a", "b", "c")
SHAPES = {"z": (None, len(LABELS))}
TASKS: dict[str, Any] = {
    "classification": Classification(LABELS, ScoresOutput("logits"), SHAPES),
    "multilabel": Multilabel(LABELS, LabelsOutput("logits", threshold=0.4), SHAPES),
    "values": Regression(LABELS, ValuesOutput(), SHAPES),
    "log": Regression(LABELS, ValuesOutput("log"), SHAPES),
    "log1p": Regression(LABELS, ValuesOutput("log1p"), SHAPES),
    "embedding": Embedding((), VectorOutput(), SHAPES),
}
SUMMED = [
    (name, merge)
    for name, task in TASKS.items()
    for merge in task.merges
    if task.sums(merge, ResponseSpec()) is not None
]


def weight_of(row):
    """A row of a table of weights as a view has it."""
    return float(row[0]) if len(row) == 1 else tuple(map(float, row))


def one_by_one(task, merge, z, weights, frame):
    """The accumulator of the sound rows; which rows are sound."""
    accumulator, sound = task.accumulator(merge, ResponseSpec(), frame), []
    for row, weight in enumerate(weights):
        prediction = task.decode({"z": z}, row, frame.plain, frame)
        sound.append(task.is_sound(prediction))
        if sound[-1]:
            accumulator.add(prediction, weight_of(weight))
    return accumulator, np.array(sound)


def answer_of(task, accumulator, frame):
    """What is answered, as an array."""
    merged = accumulator.result()
    return task.result(merged, (), frame, ResponseSpec()).values if isinstance(task, Regression) else merged


def graph_sums(task, merge, z, weights, owner):
    """The sums of each image, and which rows are sound."""
    spec = task.sums(merge, ResponseSpec())
    session = GraphSession(tail(spec, z.shape[1], z.dtype))
    inputs = {"z": z, "weight": weights.astype(spec.dtype), "owner": owner_matrix(owner, spec.dtype)}
    found = session.run(inputs)
    scalar = weights.shape[1] == 1
    each = zip(found["total"], found["weights"], strict=True)
    return [Sums(total, weight[0] if scalar else weight) for total, weight in each], found["sound"]
