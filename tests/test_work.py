"""One image on its way: what is merged, what stop rules are told, and what is answered, whatever other threads do."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import pictures
from tests.references import MODELS
from tests.serving import PATIENCE
from tests.toys import trap_model, trapped
from tta_server.deadline import Deadline
from tta_server.errors import Cancelled
from tta_server.geometry import Size
from tta_server.images import Limits
from tta_server.jobs import LOST, Failed, Merged
from tta_server.metrics import Metrics
from tta_server.plan import Options, make_plan
from tta_server.predictor import Caller, make_job, read_source
from tta_server.repository import Model, load_model
from tta_server.runner import ModelRunner
from tta_server.stopping import Confident, StopReason
from tta_server.tasks import Scene, Wanted
from tta_server.tasks.classification import Classification
from tta_server.work import ImageWork, Source


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


# ---- what stop rules are told of the order ----

VIEWS = 4
FOUR = '["identity", "hflip", {"shift": [1, 0]}, {"shift": [2, 0]}]'


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(trap_model(tmp_path_factory.mktemp("models") / "toy", batch="n"))


def four_views(model: Model, tiles: int = 1, **more: Any) -> ImageWork:
    """A job of VIEWS views, each of them so many entries of its layout; nothing is decoded."""
    plan = make_plan(model, Options(policy=FOUR, include=more.pop("include", frozenset())))
    source = read_source(trapped(), Limits())
    work = make_job(plan, source, Deadline.after(60_000), Caller("test", **more), Metrics()).work
    if tiles == 1:
        return work
    placements = tuple(placement for placement in work.layout.placements for _ in range(tiles))
    layout = replace(work.layout, placements=placements, buckets=work.layout.buckets * tiles, tiles=tiles)
    return ImageWork(plan, layout, source, Deadline.after(60_000), "test", Metrics())


def scores(*values: float) -> dict[str, Any]:
    return {"scores": np.array([values], np.float32)}


EVEN, CLEAR, NAN, TOO_FEW = scores(1, 1, 1), scores(9, 1, 1), scores(1, np.nan, 1), scores()


@given(
    st.sampled_from([1, 2, 3]).flatmap(
        lambda tiles: st.tuples(st.just(tiles), st.permutations(range(VIEWS * tiles)), st.sets(st.integers(0, 11)))
    ),
    st.sampled_from([NAN, TOO_FEW]),
)
def test_views_in_order_are_whole_views_of_the_policy_s_beginning(
    toy: Model, drawn: tuple[int, list[int], set[int]], spoilt: dict[str, Any]
) -> None:
    """In whatever order views, or their tiles, come back, and whichever of them are lost."""
    tiles, order, lost = drawn
    work = four_views(toy, tiles)
    merged: set[int] = set()
    assert work.views_in_order() == 0
    for index in order:
        outcome = work.merge(index, spoilt if index in lost else EVEN, 0)
        assert isinstance(outcome, Merged) == (index not in lost)
        merged |= {index} - lost
        prefix = merged == set(range(len(merged))) and len(merged) % tiles == 0
        assert work.views_in_order() == (len(merged) // tiles if prefix else 0)


@pytest.mark.parametrize(("lost", "outcome"), [(NAN, LOST), (TOO_FEW, None)])
def test_confidence_is_not_judged_where_a_view_is_lost(toy: Model, lost: dict[str, Any], outcome: object) -> None:
    """Thresholds were learned from the policy's first views: of others nothing is known."""

    def stops(second: dict[str, Any]) -> StopReason | None:
        work = four_views(toy)
        work.plan = replace(work.plan, rule=Confident(0.4))
        first = work.merge(0, EVEN, 0)
        assert isinstance(first, Merged)
        assert first.stop is None
        told = work.merge(1, second, 0)
        if second is lost:
            assert told is outcome or (outcome is None and isinstance(told, Failed))
        third = work.merge(2, CLEAR, 0)
        assert isinstance(third, Merged)
        return third.stop

    assert stops(EVEN) is StopReason.CONFIDENT
    assert stops(lost) is None


# ---- answers so far ----


class Gated(Classification):
    """Waits, each time it makes an answer in another thread than this one, until it may go on."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.owner = threading.current_thread()
        self.entered, self.release = threading.Event(), threading.Event()
        self.painted: list[Any] = []
        self.results = 0

    def accumulator(self, merge: str, wanted: Wanted, scene: Scene) -> Any:
        def count() -> None:
            self.results += 1

        return Late(super().accumulator(merge, wanted, scene), count)

    def answer(self, merged: Any, remarks: Any, scene: Scene, wanted: Wanted) -> Any:
        if threading.current_thread() is not self.owner:
            self.entered.set()
            assert self.release.wait(PATIENCE)
        return super().answer(merged, remarks, scene, wanted)

    def paint(self, pixels: Any, prediction: Any) -> Any:
        self.painted.append(pixels.copy())
        return pixels


def gated(toy: Model) -> tuple[Model, Gated]:
    task = Gated(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    return replace(toy, task=task), task


def test_an_answer_so_far_is_whole_though_its_job_is_settled_meanwhile(toy: Model) -> None:
    """Its picture, its views and its times are those of the moment when it was asked for."""
    model, task = gated(toy)
    work = four_views(model)
    work.plan = replace(work.plan, wanted=replace(work.plan.wanted, include=frozenset(["drawing"])))
    work = ImageWork(work.plan, work.layout, read_source(trapped(), Limits()), Deadline.after(60_000), "x", Metrics())
    work.decode()
    ModelRunner().run([(work, 0)])
    with ThreadPoolExecutor(1) as reader:
        asked = reader.submit(work.partial, 0)
        assert task.entered.wait(PATIENCE)
        work.merge(1, NAN, 0)
        ModelRunner().run([(work, 2)])
        work.settle(StopReason.DEADLINE)
        task.release.set()
        found = asked.result(PATIENCE)
    assert found is not None
    seen, so_far = found
    assert seen == 1
    assert "drawing" in so_far.prediction
    assert ([view["name"] for view in so_far.receipt.views], so_far.receipt.dropped) == (["plain"], 0)
    answer = work.future.result()
    assert "drawing" in answer.prediction
    assert (len(answer.receipt.views), answer.receipt.dropped) == (2, 1)
    assert so_far.receipt.stages_ms["infer"] < answer.receipt.stages_ms["infer"]
    assert [pixels.tolist() for pixels in task.painted] == [trapped().tolist()] * 2


def test_what_nobody_reads_is_never_made(toy: Model) -> None:
    """A listener hears after each view but the last; merging is asked for its result when somebody reads it."""
    model, task = gated(toy)
    heard: list[int] = []
    work = four_views(model, listener=lambda: heard.append(task.results))
    for index in range(VIEWS):
        work.merge(index, EVEN, 0)
        work.tell()
    assert heard == [0, 0, 0]
    work.settle(StopReason.ALL_VIEWS)
    assert task.results == 1


def test_an_answer_so_far_is_given_once(toy: Model) -> None:
    work = four_views(toy)
    assert work.partial(0) is None
    work.merge(1, EVEN, 0)
    assert work.partial(0) is None  # the plain view is not there yet
    work.merge(0, EVEN, 0)
    found = work.partial(0)
    assert found is not None
    seen, answer = found
    assert (seen, len(answer.receipt.views), answer.receipt.stop_reason) == (2, 2, None)
    assert work.partial(seen) is None
    for index in (2, 3):
        work.merge(index, EVEN, 0)
    assert work.partial(seen) is None  # the answer follows


def test_an_answer_so_far_that_can_not_be_made_is_left_out(toy: Model, caplog: pytest.LogCaptureFixture) -> None:
    class Mute(Classification):
        def answer(self, *_: Any) -> Any:
            raise RuntimeError("no words")

    task = Mute(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    work = four_views(replace(toy, task=task))
    work.merge(0, EVEN, 0)
    assert work.partial(0) is None
    assert "no words" in caplog.text


def test_pixels_that_are_decoded_after_the_client_has_left_are_let_go(toy: Model) -> None:
    """The job is settled while its image is being decoded."""

    class Leaving(Source):
        def open(self) -> Any:
            work.settle(Cancelled("the client has left"))
            return Source.open(self)

    known = four_views(toy)
    source = Leaving(Size(8, 8), pixels=trapped())
    work = ImageWork(known.plan, known.layout, source, Deadline.after(60_000), "test", Metrics())
    work.decode()
    row = np.ones((3, 8, 8), np.float32)
    work.write(0, row)
    assert not row.any()
