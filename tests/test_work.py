"""Batches of several clients' views: whoever has left can't hurt his neighbours."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests import pictures
from tests.onnx_models import graph, write_model
from tests.references import MODELS
from tta_server import load
from tta_server.deadline import Deadline
from tta_server.errors import Cancelled, ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.jobs import Merged
from tta_server.metrics import Metrics
from tta_server.plan import Options, make_plan
from tta_server.predictor import Caller, make_job, read_source
from tta_server.repository import Model, load_model
from tta_server.stopping import StopReason
from tta_server.tasks import Scene, Wanted
from tta_server.tasks.classification import Classification
from tta_server.work import ImageWork, ModelRunner


@pytest.fixture(scope="module")
def clothing() -> Model:
    return load_model(MODELS / "clothing")


def decoded(model: Model, seed: int) -> ImageWork:
    plan = make_plan(model, Options(policy="plain", include=frozenset(["probabilities"])))
    source = read_source(pictures.jpeg(seed=seed), Limits())
    work = make_job(plan, source, Deadline.after(1000), Caller("test"), Metrics()).work
    work.decode()
    return work


def test_who_has_left_does_not_fail_the_batch(clothing: Model) -> None:
    stays, leaves, alone = decoded(clothing, 1), decoded(clothing, 2), decoded(clothing, 1)
    leaves.settle(Cancelled("the client has left"))
    runner = ModelRunner()
    assert runner.run([(leaves, 0), (stays, 0)]) == [Merged(), Merged()]
    runner.run([(alone, 0)])
    for work in (stays, alone):
        work.settle(StopReason.ALL_VIEWS)
    together, single = (work.future.result().prediction["probabilities"] for work in (stays, alone))
    np.testing.assert_allclose(together, single, atol=1e-5)
    with pytest.raises(Cancelled):
        leaves.future.result()


class Late:
    """A task's accumulator that, just when it is asked for its result, sees one more view come in."""

    def __init__(self, real: Any, arrives: Callable[[], object]) -> None:
        self._real, self._arrives = real, arrives

    def add(self, prediction: Any, weight: Any) -> None:
        self._real.add(prediction, weight)

    def margin(self) -> float:
        return float(self._real.margin())

    def result(self) -> Any:
        self._arrives()
        return self._real.result()


class LateTask(Classification):
    arrives: Callable[[], object]

    def accumulator(self, merge: str, wanted: Wanted, scene: Scene) -> Any:
        return Late(super().accumulator(merge, wanted, scene), lambda: self.arrives())


def test_a_view_that_comes_while_the_answer_is_made_is_ignored(clothing: Model) -> None:
    task = LateTask(clothing.config.labels, clothing.config.output, clothing.backend.signature.outputs)
    model = replace(clothing, task=task)
    work, runner = decoded(model, 3), ModelRunner()
    task.arrives = lambda: runner.run([(work, 0)])
    runner.run([(work, 0)])
    work.settle(StopReason.DEADLINE)
    assert len(work.future.result().receipt.views) == 1


def test_a_model_that_cannot_run_a_batch_of_two_is_refused_at_load(tmp_path) -> None:
    """Its file says that the batch is free, but a reshape in it knows only one image."""
    shape = numpy_helper.from_array(np.array([1, 192], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "mean"], ["scores"], axis=1),
    ]
    model = graph(nodes, ("n", 3, 8, 8), "float32", [helper.make_tensor_value_info("scores", 1, ["n", 2])])
    model.graph.initializer.append(shape)
    config = {"task": "classification", "labels": ["a", "b"], "input": {"size": [8, 8]}, "output": {"kind": "logits"}}
    with pytest.raises(ConfigError, match="can't run views"):
        load(write_model(tmp_path / "single", model, config))
