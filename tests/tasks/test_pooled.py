"""Vectors that keep the axes of a pooled map, [N, C, 1, 1] or [N, 1, 1, C], are read as [N, C]."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.onnx_models import graph, write_model
from tests.support.patterns import noise
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, Task
from tta_server.tasks.embedding import Embedding, VectorOutput
from tta_server.tasks.regression import Regression, ValuesOutput
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import LabelsOutput, ScoresOutput
from tta_server.tasks.scores.multilabel import Multilabel
from tta_server.tasks.shapes import Shapes
from tta_server.views.geometry import Size
from tta_server.views.view import View

LABELS = ("a", "b", "c")
SIZE = Size(20, 10)
PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), SIZE)
FRAME = ImageFrame(SIZE, PLAIN)
TASKS: dict[str, Callable[[Shapes], Task[Any, Any]]] = {
    "classification": lambda shapes: Classification(LABELS, ScoresOutput("logits"), shapes),
    "multilabel": lambda shapes: Multilabel(LABELS, LabelsOutput("logits"), shapes),
    "regression": lambda shapes: Regression(LABELS, ValuesOutput(), shapes),
    "embedding": lambda shapes: Embedding((), VectorOutput(), shapes),
}
POOLED = {"NCHW": (3, 1, 1), "NHWC": (1, 1, 3)}

every_task = pytest.mark.parametrize("name", TASKS)
pooled = pytest.mark.parametrize("row", POOLED.values(), ids=POOLED)
numbers = st.floats(-50, 50, width=32).filter(lambda value: abs(value) > 1e-3)


# ---- laws ----


@every_task
@pooled
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
def test_pooled_vectors_are_decoded_as_vectors(name: str, row: tuple[int, ...], views: list[tuple[float, ...]]) -> None:
    flat = np.float32(views)
    vectors, maps = TASKS[name]({"y": (None, 3)}), TASKS[name]({"y": (None, *row)})
    shaped = flat.reshape(-1, *row)
    maps.check({"y": shaped}, Size(8, 8))
    for number in range(len(flat)):
        one = vectors.decode({"y": flat}, number, PLAIN, FRAME)
        other = maps.decode({"y": shaped}, number, PLAIN, FRAME)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@every_task
@pytest.mark.parametrize("stated", [(None, 3, 1, 1), (None, 1, 1, 3), (None, None, None, None), (1, 3, None, None)])
def test_shapes_that_a_file_states(name: str, stated: tuple[int | None, ...]) -> None:
    assert TASKS[name]({"y": stated}).reads == ("y",)


@pytest.mark.parametrize(
    ("stated", "length"),
    [
        ((None, 7), 7),
        ((None, 7, 1, 1), 7),
        ((None, 1, 1, 7), 7),
        ((None, 7, None, None), 7),
        ((None, None, None, None), None),
        ((None, None, 1, 1), None),
        ((None, 1, 1, 1), 1),
    ],
)
def test_the_length_of_an_embedding(stated: tuple[int | None, ...], length: int | None) -> None:
    (spec,) = Embedding((), VectorOutput(), {"y": stated}).tensor_specs
    assert spec.shape == (length,)


@every_task
@pytest.mark.parametrize("shape", [(1, 3, 2, 1), (1, 1, 3, 1), (1, 3, 1), (1, 2, 2, 3)])
def test_maps_that_are_not_pooled_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=f"{name} .*needs an output y of shape "):
        TASKS[name]({"y": (None,) * len(shape)}).check({"y": np.ones(shape)}, Size(8, 8))


# ---- end to end ----


def pooling(layout: str) -> Any:
    """The mean of each channel, with the axes of its map."""
    channels_last = layout == "NHWC"
    shape, row = (("n", 8, 8, 3), ["n", 1, 1, 3]) if channels_last else (("n", 3, 8, 8), ["n", 3, 1, 1])
    nodes = [helper.make_node("ReduceMean", ["image"], ["y"], axes=[1, 2] if channels_last else [2, 3], keepdims=1)]
    return graph(nodes, shape, "float32", [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)])


def folder(path: Path, task: str, layout: str, views: str, output: dict[str, Any]) -> Path:
    config: dict[str, Any] = {
        "task": task,
        "input": {"size": [8, 8], "resize": "exact", "layout": layout},
        "output": output,
        "policy": "flips",
        "symmetries": ["hflip", "vflip"],
        "backend": {"views": views},
    }
    if task != "embedding":
        config["labels"] = list(LABELS)
    return write_model(path / f"{task}-{layout}-{views}", pooling(layout), config)


@pytest.mark.parametrize("layout", POOLED)
@pytest.mark.parametrize("views", ["local", "graph"])
@pytest.mark.parametrize(
    ("task", "output"),
    [
        ("classification", {"kind": "logits"}),
        ("multilabel", {"kind": "probabilities"}),
        ("regression", {}),
        ("embedding", {}),
    ],
)
def test_a_pooled_model_answers_plain_and_with_flips(
    tmp_path: Path, task: str, output: dict[str, Any], layout: str, views: str
) -> None:
    image = np.full((9, 14, 3), (255, 51, 0), np.uint8)
    expected = {
        "classification": np.exp([1, 0.2, 0]) / np.exp([1, 0.2, 0]).sum(),
        "multilabel": [1, 0.2, 0],
        "regression": [1, 0.2, 0],
        "embedding": np.array([1, 0.2, 0]) / np.hypot(1, 0.2),
    }[task]
    field = {"regression": "values", "embedding": "vector"}.get(task, "probabilities")
    with load(folder(tmp_path, task, layout, views, output), slots=1) as model:
        for policy in ("plain", "flips"):
            answer = model.predict(image, policy=policy, budget_ms=10_000)
            assert answer.receipt.warnings == ()
            np.testing.assert_allclose(getattr(answer.result, field), expected, atol=1e-5)
        assert len(model.predict(noise(SIZE), budget_ms=10_000).receipt.views) == 4
