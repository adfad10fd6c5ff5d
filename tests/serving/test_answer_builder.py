"""Partial answers: each is consistent, whatever happens to its job meanwhile, and made only when it is read."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.serving.test_job import CLEAR, EVEN, NAN, VIEWS, Late, four_views, scores
from tests.support.jobs import SingleJob, job_of, run
from tests.support.serving import PATIENCE
from tests.support.toys import trap_image, trap_model
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import Confident, StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.image import read_source
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import softmax


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(trap_model(tmp_path_factory.mktemp("models") / "toy", batch="n"))


class Gated(Classification):
    """Waits for `release` each time it makes a result on another thread than this one."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.owner = threading.current_thread()
        self.entered, self.release = threading.Event(), threading.Event()
        self.results = 0

    def accumulator(self, merge: str, wanted: ResponseSpec, scene: ImageFrame) -> Any:
        def count() -> None:
            self.results += 1

        return Late(super().accumulator(merge, wanted, scene), count)

    def result(self, merged: Any, views: Any, scene: ImageFrame, wanted: ResponseSpec) -> Any:
        if threading.current_thread() is not self.owner:
            self.entered.set()
            assert self.release.wait(PATIENCE)
        return super().result(merged, views, scene, wanted)


def gated(toy: Model) -> tuple[Model, Gated]:
    task = Gated(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    return replace(toy, task=task), task


def with_drawing(model: Model, *include: str) -> SingleJob:
    """As `four_views`, with a drawing in each answer, which this task does not offer."""
    known = four_views(model)
    plan = replace(
        known.payload.plan, wanted=replace(known.payload.plan.wanted, include=frozenset(["drawing", *include]))
    )
    return job_of(plan, known.payload.views.layout, read_source(trap_image(), Limits()))


def test_a_partial_answer_is_consistent_though_its_job_is_settled_meanwhile(toy: Model) -> None:
    """Its drawing, views and times are those of the moment when it was requested."""
    model, task = gated(toy)
    work = with_drawing(model)
    work.decode()
    run([(work, 0)])
    with ThreadPoolExecutor(1) as reader:
        request = reader.submit(work.partial, 0)
        assert task.entered.wait(PATIENCE)
        work.merge(1, NAN, 0)
        run([(work, 2)])
        work.settle(StopReason.DEADLINE)
        task.release.set()
        found = request.result(PATIENCE)
    assert found is not None
    seen, so_far = found
    assert seen == 1
    assert ([view["name"] for view in so_far.receipt.views], so_far.receipt.dropped) == (["plain"], 0)
    answer = work.future.result()
    assert (len(answer.receipt.views), answer.receipt.dropped) == (2, 1)
    assert so_far.receipt.stages_ms["infer"] < answer.receipt.stages_ms["infer"]
    for one in (so_far, answer):
        np.testing.assert_array_equal(np.asarray(from_base64(one.prediction["drawing"])), trap_image())


def test_an_unread_partial_answer_is_never_made(toy: Model) -> None:
    """The listener is called after each view but the last; the merge's result is computed when it is read."""
    model, task = gated(toy)
    heard: list[int] = []
    work = four_views(model, listener=lambda: heard.append(task.results))
    for index in range(VIEWS):
        work.merge(index, EVEN, 0)
        work.notify()
    assert heard == [0, 0, 0]
    work.settle(StopReason.ALL_VIEWS)
    assert task.results == 1


def test_a_partial_answer_is_given_once(toy: Model) -> None:
    work = four_views(toy)
    assert work.partial(0) is None
    work.merge(1, EVEN, 0)
    assert work.partial(0) is None  # the plain view is not merged yet
    work.merge(0, EVEN, 0)
    found = work.partial(0)
    assert found is not None
    seen, answer = found
    assert (seen, len(answer.receipt.views), answer.receipt.stop_reason) == (2, 2, None)
    assert work.partial(seen) is None
    for index in (2, 3):
        work.merge(index, EVEN, 0)
    assert work.partial(seen) is None  # the answer follows


@pytest.mark.parametrize(("mandatory", "heard"), [(1, 0), (VIEWS, 3)])
def test_a_rule_that_would_stop_keeps_listeners_while_mandatory_views_run(
    toy: Model, mandatory: int, heard: int
) -> None:
    calls: list[int] = []
    work = four_views(toy, listener=lambda: calls.append(1))
    work.payload.plan = replace(work.payload.plan, rule=Confident(0.1))
    work.job.mandatory = mandatory
    for index in range(VIEWS):
        work.merge(index, CLEAR, 0)
        work.notify()
    assert len(calls) == heard


def test_without_the_plain_view_there_is_no_partial_answer(toy: Model) -> None:
    work = four_views(toy)
    work.merge(0, NAN)
    work.merge(1, EVEN)
    assert work.partial(0) is None


def test_a_partial_answer_that_can_not_be_made_is_left_out(toy: Model, caplog: pytest.LogCaptureFixture) -> None:
    class Mute(Classification):
        def result(self, *_: Any) -> Any:
            raise RuntimeError("no words")

    task = Mute(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    work = four_views(replace(toy, task=task))
    work.merge(0, EVEN, 0)
    assert work.partial(0) is None
    assert "no words" in caplog.text


def test_with_concurrent_threads_each_answer_is_of_the_views_that_it_names(toy: Model) -> None:
    """Two slots merge, two readers read, one thread settles: each answer adds up."""
    worth = [scores(9, 1, 1), scores(1, 9, 1), scores(1, 1, 9), scores(4, 4, 1)]
    names = [view.name for view in four_views(toy).payload.plan.views]
    each = [softmax(np.array(one["scores"][0])) for one in worth]

    def check(answer: Answer) -> None:
        seen = [names.index(view["name"]) for view in answer.receipt.views]
        expected = np.mean([each[index] for index in seen], axis=0)
        np.testing.assert_allclose(answer.prediction["probabilities"], expected, atol=1e-5)
        assert len(seen) + answer.receipt.dropped <= VIEWS

    def merge(work: SingleJob, views: list[int]) -> None:
        for index in views:
            work.payload.views.write(index, np.empty((3, 8, 8), np.float32))
            work.merge(index, NAN if index == 3 else worth[index], 0)
            work.payload.times.add(infer=1)
            work.notify()

    def read(work: SingleJob) -> None:
        seen = 0
        while not work.future.done():
            if (found := work.partial(seen)) is not None:
                assert found[0] > seen
                seen = found[0]
                assert "drawing" in found[1].prediction
                check(found[1])

    with ThreadPoolExecutor(5) as threads:
        for number in range(60):
            work = with_drawing(toy, "probabilities")
            work.decode()
            work.merge(0, worth[0], 0)
            start = threading.Barrier(5)
            steps = [
                partial(merge, work, [1, 3]),
                partial(merge, work, [2]),
                partial(read, work),
                partial(read, work),
                partial(settle, work, number % 6),
            ]
            for running in [threads.submit(at_once, start, step) for step in steps]:
                running.result(PATIENCE)
            check(work.future.result(PATIENCE))


def settle(work: SingleJob, turns: int) -> None:
    for _ in range(turns):
        work.partial(0)
    work.settle(StopReason.DEADLINE)


def at_once(start: threading.Barrier, step: Callable[[], None]) -> None:
    start.wait(PATIENCE)
    step()
