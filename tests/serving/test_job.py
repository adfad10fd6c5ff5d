"""One job: what is merged, what stop rules see, and what is answered, while other threads work on it too."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import pictures
from tests.support.jobs import SingleJob, job_of, run
from tests.support.references import MODELS
from tests.support.toys import trap_image, trap_model
from tta_server.errors import Cancelled
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import MERGED
from tta_server.scheduling.stopping import Certain, Confident, StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import Source, read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.classification import Classification
from tta_server.telemetry.prometheus import Metrics
from tta_server.views.geometry import Size


@pytest.fixture(scope="module")
def clothing() -> Model:
    return load_model(MODELS / "clothing")


def decoded(model: Model, seed: int) -> SingleJob:
    plan = make_plan(model, Options(policy="plain", include=frozenset(["probabilities"])))
    source = read_source(pictures.jpeg(seed=seed), Limits())
    work = SingleJob(make_job(plan, source, Deadline.after(1000), Caller("test"), Metrics()))
    work.decode()
    return work


def test_a_cancelled_job_does_not_fail_the_batch(clothing: Model) -> None:
    stays, leaves, alone = decoded(clothing, 1), decoded(clothing, 2), decoded(clothing, 1)
    leaves.settle(Cancelled("the client has left"))
    assert run([(leaves, 0), (stays, 0)]) == [MERGED, MERGED]
    run([(alone, 0)])
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

    def accumulator(self, merge: str, wanted: ResponseSpec, scene: ImageFrame) -> Any:
        return Late(super().accumulator(merge, wanted, scene), lambda: self.arrives())


def test_a_view_that_comes_while_the_answer_is_made_is_ignored(clothing: Model) -> None:
    task = LateTask(clothing.config.labels, clothing.config.output, clothing.backend.signature.outputs)
    model = replace(clothing, task=task)
    work = decoded(model, 3)
    task.arrives = lambda: run([(work, 0)])
    run([(work, 0)])
    work.settle(StopReason.DEADLINE)
    assert len(work.future.result().receipt.views) == 1


@pytest.mark.parametrize("values", [np.full((1, 10), np.nan, np.float32), np.empty((1, 0), np.float32)])
def test_a_view_that_is_lost_while_the_answer_is_made_is_ignored_too(clothing: Model, values: NDArray[Any]) -> None:
    task = LateTask(clothing.config.labels, clothing.config.output, clothing.backend.signature.outputs)
    work = decoded(replace(clothing, task=task), 3)
    task.arrives = lambda: None
    run([(work, 0)])
    name = next(iter(clothing.backend.signature.outputs))
    task.arrives = lambda: work.merge(0, {name: values}, 0)
    work.settle(StopReason.DEADLINE)
    receipt = work.future.result().receipt
    assert (len(receipt.views), receipt.dropped) == (1, 0)


class FailsLate(Late):
    """Adds the plain view; while the second one is added, its job is settled elsewhere, and then the add fails."""

    job: Any = None

    def add(self, prediction: Any, weight: Any) -> None:
        if self.job is not None:
            self.job.progress = self.job.progress.settle()
            raise RuntimeError("it does not fit")
        super().add(prediction, weight)


class FailsLateTask(Classification):
    def accumulator(self, merge: str, wanted: ResponseSpec, scene: ImageFrame) -> Any:
        self.made = FailsLate(super().accumulator(merge, wanted, scene), lambda: None)
        return self.made


def test_a_view_that_fails_while_its_job_is_settled_is_not_in_the_answer(toy: Model) -> None:
    task = FailsLateTask(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    work = four_views(replace(toy, task=task))
    assert not work.merge(0, CLEAR).lost
    task.made.job = work.job
    assert work.merge(1, EVEN).lost == 0b10
    work.settle(StopReason.DEADLINE)
    receipt = work.future.result().receipt
    assert ([view["name"] for view in receipt.views], receipt.dropped) == (["plain"], 1)


def test_a_future_that_is_kept_keeps_no_maps(toy: Model) -> None:
    task = FailsLateTask(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    work = four_views(replace(toy, task=task))
    work.merge(0, CLEAR)
    accumulator = weakref.ref(task.made)
    del task.made
    work.settle(StopReason.ALL_VIEWS)
    gc.collect()
    assert work.future.result()
    assert accumulator() is None


# ---- what stop rules see of the order ----

VIEWS = 4
FOUR = '["identity", "hflip", {"shift": [1, 0]}, {"shift": [2, 0]}]'


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(trap_model(tmp_path_factory.mktemp("models") / "toy", batch="n"))


def four_views(model: Model, tiles: int = 1, **more: Any) -> SingleJob:
    """A job of VIEWS views, each of them `tiles` entries of its layout; nothing is decoded."""
    plan = make_plan(model, Options(policy=FOUR, include=more.pop("include", frozenset())))
    source = read_source(trap_image(), Limits())
    work = SingleJob(make_job(plan, source, Deadline.after(60_000), Caller("test", **more), Metrics()))
    if tiles == 1:
        return work
    known = work.payload.views.layout
    placements = tuple(placement for placement in known.placements for _ in range(tiles))
    return job_of(plan, replace(known, placements=placements, buckets=known.buckets * tiles, tiles=tiles), source)


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
    assert work.job.progress.views_in_order(tiles) == 0
    for index in order:
        outcome = work.merge(index, spoilt if index in lost else EVEN, 0)
        assert outcome.lost == (1 << index if index in lost else 0)
        merged |= {index} - lost
        prefix = merged == set(range(len(merged))) and len(merged) % tiles == 0
        assert work.job.progress.views_in_order(tiles) == (len(merged) // tiles if prefix else 0)


@pytest.mark.parametrize("lost", [NAN, TOO_FEW])
def test_confidence_is_not_judged_where_a_view_is_lost(toy: Model, lost: dict[str, Any]) -> None:
    """Thresholds were learned from the policy's first views: of others nothing is known."""

    def stops(second: dict[str, Any]) -> StopReason | None:
        work = four_views(toy)
        work.payload.plan = replace(work.payload.plan, rule=Confident(0.4))
        assert work.merge(0, EVEN, 0).stop is None
        assert work.merge(1, second, 0).lost == (0b10 if second is lost else 0)
        return work.merge(2, CLEAR, 0).stop

    assert stops(EVEN) is StopReason.CONFIDENT
    assert stops(lost) is None


@pytest.mark.parametrize("tiles", [1, 2])
def test_a_merge_says_after_how_many_entries_the_stop_rule_is_expected_to_stop(toy: Model, tiles: int) -> None:
    """With no lead known, `certain` may stop once three of four equal views outweigh the last."""
    work = four_views(toy, tiles)
    work.payload.plan = replace(work.payload.plan, rule=Certain())
    for entry in range(tiles):
        outcome = work.merge(entry, EVEN, 0)
    assert outcome.expected == 3 * tiles


@pytest.mark.parametrize("tiles", [1, 2])
def test_a_receipt_counts_the_views_that_were_given_to_slots(toy: Model, tiles: int) -> None:
    """Of four views the first is merged and two more have begun when the job is answered."""
    work = four_views(toy, tiles)
    work.job.progress = work.job.progress.dispatch(2 * tiles + 1)
    for entry in range(tiles):
        work.merge(entry, EVEN, 0)
    work.settle(StopReason.CERTAIN)
    receipt = work.future.result().receipt
    assert (len(receipt.views), receipt.started, receipt.planned) == (1, 3, 4)


# ---- leaving ----


def test_pixels_that_are_decoded_after_the_client_has_left_are_let_go(toy: Model) -> None:
    """The job is settled while its image is being decoded."""

    class Leaving(Source):
        def open(self) -> Any:
            work.settle(Cancelled("the client has left"))
            return Source.open(self)

    known = four_views(toy)
    source = Leaving(Size(8, 8), pixels=trap_image())
    work = job_of(known.payload.plan, known.payload.views.layout, source)
    work.decode()
    row = np.ones((3, 8, 8), np.float32)
    work.payload.views.write(0, row)
    assert not row.any()
