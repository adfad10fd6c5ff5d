"""A batch of several jobs' views: what goes wrong with one of them is that one's own affair."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support import pictures
from tests.support.graphed import on_backend
from tests.support.jobs import SingleJob, run
from tests.support.toys import trap_image, trap_model
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.placement import Placement
from tta_server.imaging.preprocessing import Canvas, Preprocessing
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model, Observed
from tta_server.scheduling.jobs import Outcome
from tta_server.scheduling.stopping import Evidence, StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.classification import Classification
from tta_server.telemetry.prometheus import Metrics
from tta_server.views.view import View

SECRET = "weights.bin, line 17"
BROKEN, SOUND = 200, 100
"""Shades of the images of the job that breaks and of its neighbours."""
OPTIONS = Options(include=frozenset(["probabilities", "views"]))


class Breaking(Classification):
    """Raises, or adds nothing, for scores of the broken image: about its shade over 64."""

    where = ""

    def _break(self, where: str, scores: Any) -> None:
        if where == self.where and np.max(scores) > (BROKEN + SOUND) / 2 / 64:
            raise RuntimeError(SECRET)

    def decode(self, outputs: Outputs, row: int, placement: Placement, scene: ImageFrame) -> Any:
        prediction = super().decode(outputs, row, placement, scene)
        self._break("decode", prediction)
        return prediction

    def is_sound(self, prediction: Any) -> bool:
        self._break("is_sound", prediction)
        return super().is_sound(prediction)

    def view_result(self, prediction: Any) -> Any:
        self._break("view_result", prediction)
        return super().view_result(prediction)

    def accumulator(self, merge: str, wanted: ResponseSpec, scene: ImageFrame) -> Any:
        real: Any = super().accumulator(merge, wanted, scene)
        add, margin = real.add, real.margin

        def breaking_add(prediction: Any, weight: Any) -> None:
            self._break("add", prediction)
            add(prediction, weight)

        def breaking_margin() -> float:
            self._break("margin", BROKEN / 64 if real.seen_broken else 0)
            return float(margin())

        return _Watched(real, breaking_add, breaking_margin)


class _Watched:
    """An accumulator whose `add` and `margin` are these."""

    def __init__(self, real: Any, add: Callable[[Any, Any], None], margin: Callable[[], float]) -> None:
        self._real = real
        self._add = add
        self._margin = margin
        real.seen_broken = False

    def add(self, prediction: Any, weight: Any) -> None:
        self._add(prediction, weight)
        self._real.seen_broken |= bool(np.max(prediction) > (BROKEN + SOUND) / 2 / 64)

    def margin(self) -> float:
        return self._margin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class BreakingRule:
    def decide(self, evidence: Evidence) -> StopReason | None:
        raise RuntimeError(SECRET)


class BreakingPixels(Preprocessing):
    """Can't make a view of the broken image."""

    def write(self, canvas: Canvas, view: View, placement: Placement, out: Tensor) -> None:
        if canvas.planes.max() == BROKEN:
            out.fill(7)
            raise RuntimeError(SECRET)
        super().write(canvas, view, placement, out)


@pytest.fixture(scope="module", params=["local", "graph"])
def toy(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Model:
    """With either executor."""
    extra = f"backend: {{views: {request.param}}}\n"
    return load_model(trap_model(tmp_path_factory.mktemp("models") / "toy", batch="n", extra=extra))


def broken(toy: Model, where: str) -> Model:
    """The model, raising at `where` for the broken image."""
    if where == "write":
        fields = {name: getattr(toy.preprocessing, name) for name in Preprocessing.__dataclass_fields__}
        return replace(toy, preprocessing=BreakingPixels(**fields))
    task = Breaking(toy.config.labels, toy.config.output, toy.backend.signature.outputs)
    task.where = where
    return replace(toy, task=task)


def job(model: Model, shade: int, metrics: Metrics, listener: Callable[[], None] | None = None) -> SingleJob:
    source = read_source(pictures.encoded(trap_image(shade=shade)), Limits())
    caller = Caller("test", listener)
    work = SingleJob(make_job(make_plan(model, OPTIONS), source, Deadline.after(60_000), caller, metrics))
    work.decode()
    return work


def answered(work: SingleJob) -> list[float]:
    work.settle(StopReason.ALL_VIEWS)
    return list(work.future.result().prediction["probabilities"])


def dropped(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("tta_dropped_views_total", {"model": "toy"}) or 0.0


def failure(outcome: Outcome) -> TTAError:
    assert outcome.lost
    assert outcome.error
    return outcome.error


# ---- one job's exception ----


@pytest.mark.parametrize("where", ["decode", "is_sound", "view_result", "add", "write"])
def test_an_exception_over_one_view_is_an_outcome_of_its_own(
    toy: Model, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    if where == "write" and toy.pipeline:
        pytest.skip("a graph makes all views at once; canvases that fail: test_graph_executor.py")
    model, metrics = broken(toy, where), Metrics()
    before, bad, after = (job(model, shade, metrics) for shade in (SOUND, BROKEN, SOUND))
    alone = job(toy, SOUND, Metrics())
    with caplog.at_level(logging.WARNING):
        for view in (0, 1):
            first, mistake, last = run([(before, view), (bad, view), (after, view)])
            assert not first.lost
            assert not last.lost
            error = failure(mistake)
            assert isinstance(error, BackendFailed)
            assert SECRET not in str(error)
            assert "\n" not in str(error)
            run([(alone, view)])
    expected = answered(alone)
    for neighbour in (before, after):
        np.testing.assert_allclose(answered(neighbour), expected, atol=1e-6)
    assert dropped(metrics) == 2
    assert sum(SECRET in (record.exc_text or "") for record in caplog.records) == 1


@pytest.mark.parametrize("where", ["decode", "is_sound", "view_result", "add"])
def test_an_optional_view_that_fails_is_dropped_and_counted(toy: Model, where: str) -> None:
    """The plain view is sound; the second one is another image's."""
    model, metrics = broken(toy, where), Metrics()
    work = job(model, SOUND, metrics)
    assert not run([(work, 0)])[0].lost
    failure(work.merge(1, {"scores": np.full((1, 3), BROKEN / 64, np.float32)}, 0))
    work.settle(StopReason.ALL_VIEWS)
    receipt = work.future.result().receipt
    assert [view["name"] for view in receipt.views] == ["plain"]
    assert (receipt.planned, receipt.dropped) == (2, 1)


def test_a_stop_rule_that_raises_stops_nothing(toy: Model, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    neighbour, bad = job(toy, SOUND, metrics), job(toy, BROKEN, metrics)
    bad.payload.plan = replace(bad.payload.plan, rule=BreakingRule())
    for view in (0, 1):
        assert not any(outcome.lost for outcome in run([(bad, view), (neighbour, view)]))
    for work in (bad, neighbour):
        work.settle(StopReason.ALL_VIEWS)
        assert len(work.future.result().receipt.views) == 2
    assert sum(SECRET in (record.exc_text or "") for record in caplog.records) == 1


def test_a_margin_that_raises_stops_nothing(toy: Model) -> None:
    model, metrics = broken(toy, "margin"), Metrics()
    neighbour, bad = job(model, SOUND, metrics), job(model, BROKEN, metrics)
    for view in (0, 1):
        outcomes = run([(bad, view), (neighbour, view)])
        assert not any(outcome.lost for outcome in outcomes)


def test_a_listener_that_raises_costs_no_answer_and_is_not_called_again(
    toy: Model, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def listen() -> None:
        calls.append(1)
        raise RuntimeError(SECRET)

    four = make_plan(toy, replace(OPTIONS, policy='["identity", "hflip", {"shift": [1, 0]}, {"shift": [2, 0]}]'))
    metrics, heard = Metrics(), []
    bad, neighbour = (
        SingleJob(
            make_job(four, read_source(trap_image(), Limits()), Deadline.after(60_000), Caller("x", listener), metrics)
        )
        for listener in (listen, lambda: heard.append(1))
    )
    for work in (bad, neighbour):
        work.decode()
    for view in range(4):
        outcomes = run([(bad, view), (neighbour, view)])
        assert not any(outcome.lost for outcome in outcomes)
    assert (len(calls), len(heard)) == (1, 3)
    np.testing.assert_allclose(answered(bad), answered(neighbour))
    assert sum(SECRET in (record.exc_text or "") for record in caplog.records) == 1


def test_a_listener_hears_once_of_a_batch_with_several_views_of_its_job(toy: Model) -> None:
    heard: list[int] = []
    work = job(toy, SOUND, Metrics(), lambda: heard.append(1))
    run([(work, 0), (work, 0)])
    assert heard == [1]


# ---- what concerns the whole batch ----


class Short(Backend):
    """Gives a row less than it was given."""

    def __init__(self, real: Backend) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self._real = real

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        return {name: values[:-1] for name, values in self._real.infer(batch, abort).items()}

    def close(self) -> None:
        self._real.close()


def test_a_model_that_gives_too_few_rows_fails_the_whole_batch(toy: Model) -> None:
    model, metrics = on_backend(toy, Short(toy.backend)), Metrics()
    works = [job(model, SOUND, metrics) for _ in range(3)]
    with pytest.raises(BackendFailed, match="another number of rows"):
        run([(work, 0) for work in works])


class Broken(Short):
    """Fails on every batch; one that is ended fails too."""

    ends = False

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        if abort is not None and self.ends:
            abort.request()
        raise BackendFailed("the model failed on this image") from RuntimeError(SECRET)


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 1)])
def test_a_reloaded_model_does_not_fail_with_its_old_version(toy: Model, order: tuple[int, ...]) -> None:
    """Views of both ride together for a moment."""
    models = (toy, on_backend(toy, Broken(toy.backend)))
    works = [job(models[which], SOUND, Metrics()) for which in order]
    outcomes = run([(work, 0) for work in works])
    assert [outcome.lost == 0 for outcome in outcomes] == [which == 0 for which in order]
    assert {str(failure(o)) for o in outcomes if o.lost} == {"the model failed on this image"}


def test_where_both_forms_fail_or_the_run_is_ended_the_batch_fails_whole(toy: Model) -> None:
    backend = Broken(toy.backend)
    works = [job(on_backend(toy, backend), SOUND, Metrics()) for _ in range(2)]
    works.append(job(toy, SOUND, Metrics()))
    with pytest.raises(BackendFailed):
        run([(work, 0) for work in works[:2]])
    backend.ends = True
    with pytest.raises(BackendFailed):
        run([(work, 0) for work in works], Abort())


def test_a_model_that_can_run_one_row_only_gets_each_item_as_a_batch_of_its_own(toy: Model) -> None:
    """Also where the pool, which knows another version of the model, made a larger batch."""

    class Sized:
        def __init__(self) -> None:
            self.signature, self.rows = toy.backend.signature, list[int]()
            self.device, self.ladder = toy.backend.device, toy.backend.ladder

        def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
            self.rows.append(len(batch))
            return toy.backend.infer(batch, abort)

        def close(self) -> None: ...

    single = on_backend(toy, Sized())
    single.observe(Observed(can_batch=False))
    works = [job(model, SOUND, Metrics()) for model in (single, toy, single)]
    assert not any(outcome.lost for outcome in run([(work, 0) for work in works]))
    assert single.backend.rows == [1, 1]  # type: ignore[attr-defined]


def test_a_batch_is_padded_to_a_size_that_the_backend_takes(toy: Model) -> None:
    """3 rows run as 4, and 5, more than it takes at once, as they are; the answers are those without padding."""

    class Laddered:
        def __init__(self) -> None:
            self.signature, self.device, self.ladder = toy.backend.signature, toy.backend.device, (1, 2, 4)
            self.batches = list[Tensor]()

        def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
            self.batches.append(batch.copy())
            return toy.backend.infer(batch, abort)

        def close(self) -> None: ...

    backend = Laddered()
    model = on_backend(toy, backend)
    for rows in (3, 5):
        works = [job(model, SOUND, Metrics()) for _ in range(rows)]
        assert not any(outcome.lost for outcome in run([(work, 0) for work in works]))
    assert [len(batch) for batch in backend.batches] == [4, 5]
    assert not backend.batches[0][3].any()
