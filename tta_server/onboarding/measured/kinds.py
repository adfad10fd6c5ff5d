"""What a model's scores are, seen from its outputs for test tensors: logits or probabilities, one class or several."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.base import RunOptions
from tta_server.backends.onnxruntime import DTYPES, OnnxRuntimeBackend
from tta_server.errors import BackendFailed
from tta_server.onboarding.choices import Values
from tta_server.onboarding.evidence import Fact, Finding, Note
from tta_server.onboarding.model_file import ModelFile

SLACK, SUM_SLACK = 1e-3, 1e-2
"""How far rounding may take a probability out of [0, 1], or a sum from 1."""
LEAST = 30
"""Values that must lie in [0, 1] to be taken for probabilities of things that may be true together."""
SIDE = 224
"""Of a test tensor whose file leaves it free."""
MEASURED = ("classification", "multilabel", "segmentation")


def measure_kind(file: ModelFile, values: Values) -> Iterator[Finding]:
    """`output.kind` and `output.multilabel`, where nothing states them and test tensors show them."""
    if values.get("task") not in MEASURED or {"output.kind", "output.multilabel"} <= values.keys() or file.refusal:
        return
    if len(file.inputs) > 1:
        return
    name = values.get("output.name", file.tensors[0].name if len(file.tensors) == 1 else None)
    scores = list(_scores(file, str(name), values)) if name is not None else []
    if scores:
        for finding in _findings(str(values["task"]), scores):
            if isinstance(finding, Note) or finding.key not in values:
                yield finding


def _findings(task: str, scores: Sequence[NDArray[Any]]) -> Iterator[Finding]:
    """By scores (classes, places) of each test tensor."""
    source = f"measured on {len(scores)} test tensors"
    least, most = min(float(each.min()) for each in scores), max(float(each.max()) for each in scores)
    found, classes = f"the outputs are {least:.3g} to {most:.3g}", len(scores[0])
    in_unit = least >= -SLACK and most <= 1 + SLACK
    sums = [each.sum(axis=0) for each in scores]
    one = classes > 1 and in_unit and all(np.abs(each - 1).max() <= SUM_SLACK for each in sums)
    maps = task == "segmentation"
    if maps and classes == 1:
        yield Fact("output.multilabel", True, "the output has one channel, of which a softmax would always be 1")
    if one and task != "multilabel":
        yield Fact("output.kind", "probabilities", f"{source}: {found}, and those of an image sum to 1")
        if maps:
            yield Fact("output.multilabel", False, f"{source}: the classes of a pixel sum to 1")
    elif least < -SLACK:
        yield Fact("output.kind", "logits", f"{source}: {found}")
    elif in_unit and task != "classification" and sum(each.size for each in scores) >= LEAST:
        yield Fact("output.kind", "probabilities", f"{source}: {found}")
        if maps and classes > 1:
            yield Fact("output.multilabel", True, f"{source}: the classes of a pixel don't sum to 1")
    else:
        yield Note(f"output.kind: cannot tell, {source}: {found}")


def _scores(file: ModelFile, name: str, values: Values) -> Iterator[NDArray[Any]]:
    """Finite scores of each test tensor, (classes, places); none of a model that does not run on them."""
    backend = OnnxRuntimeBackend(file.path, RunOptions(inputs=file.input_names))
    classes = -1 if values.get("output.layout") == "NHWC" else 1
    for tensor in make_tensors(file):
        try:
            found = backend.infer(tensor).get(name)
        except BackendFailed:
            return
        if found is None or found.ndim < 2 or not np.issubdtype(found.dtype, np.floating):
            return
        rows = np.moveaxis(found, classes, 1) if values["task"] == "segmentation" else found.reshape(len(found), -1)
        scores = rows[0].astype(np.float64)
        if np.isfinite(scores).all() and scores.size:
            yield scores.reshape(len(scores), -1)


def make_tensors(file: ModelFile) -> Sequence[NDArray[Any]]:
    """Noise and slopes in the ranges that models take: 0 to 1, around 0, 0 to 255."""
    shape = file.tensor_shape(SIDE)
    random, slope = np.random.default_rng(0), np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    dtype = DTYPES[file.inputs[0].type]
    if dtype == np.uint8:
        return [(value * 255).astype(np.uint8) for value in (random.random(shape), slope, 1 - slope, slope * 0.2)]
    plain = (random.random(shape), slope, random.normal(size=shape), 4 * slope - 2)
    return [value.astype(dtype) for value in (*plain, 255 * plain[0], 255 * slope)]
