"""Shared answers in a running application: under overload, of leaders that leave, of models that are not well."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.patterns import noise
from tests.support.serving import PATIENCE, until
from tests.support.toys import Switchable, faulty_model, switchable
from tta_server.application import Application
from tta_server.errors import BackendFailed, InvalidInput, NotReady, Overloaded
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.image import Image
from tta_server.serving.plan import Options
from tta_server.serving.ticket import Ticket
from tta_server.settings import Settings
from tta_server.views.geometry import Size


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[tuple[Application, Switchable]]:
    """One slot; at most two images may wait."""
    model, switch = switchable(load_model(faulty_model(tmp_path / "toy")))
    settings = Settings(models=tmp_path, slots=1, max_waiting=2, cache_mb=1, drain_seconds=1.0)
    application = Application(settings, [model])
    application.warm()
    try:
        yield application, switch
    finally:
        switch.release.set()
        application.close()


def submit(application: Application, *images: Image, name: str = "test", **options: object) -> list[Ticket]:
    asked = Options(**{"budget_ms": 10_000, "stop": "all", "min_views": "all", **options})
    return application.predictor.submit_all(application.models["toy"], images, asked, Caller(name))


def picture(seed: int = 0) -> Image:
    return noise(Size(8, 8), seed=seed)


def test_a_stored_answer_is_given_under_overload(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    (known,) = submit(application, picture())
    first = known.future.result(PATIENCE)
    switch.mode = "stuck"
    submit(application, picture(1), picture(2))
    with pytest.raises(Overloaded):
        submit(application, picture(3))
    (hit,) = submit(application, picture())
    assert hit.future.result(0).prediction == first.prediction


def test_the_follower_of_a_client_that_left_is_answered(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    (leader,) = submit(application, picture(), name="leader")
    assert switch.entered.wait(PATIENCE)
    (follower,) = submit(application, picture(), name="follower")
    switch.mode = "works"
    application.predictor.cancel(leader)
    switch.release.set()
    answer = follower.future.result(PATIENCE)
    assert (answer.receipt.request_id, answer.receipt.cached) == ("follower", False)
    assert leader.future.cancelled() or leader.future.exception() is not None


def test_the_follower_of_a_failed_run_gets_its_own(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    (leader,) = submit(application, picture())
    assert switch.entered.wait(PATIENCE)
    (follower,) = submit(application, picture())
    switch.mode = "works"
    switch.release.set()
    with pytest.raises(BackendFailed):
        leader.future.result(PATIENCE)
    assert not follower.future.result(PATIENCE).receipt.cached
    assert submit(application, picture())[0].future.result(0).receipt.cached


def test_a_follower_that_runs_after_all_keeps_its_own_deadline(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    (leader,) = submit(application, picture())
    assert switch.entered.wait(PATIENCE)
    (follower,) = submit(application, picture())
    started = time.monotonic()
    application.predictor.cancel(leader)
    until(lambda: follower.run is not None)  # type: ignore[attr-defined]
    waited = time.monotonic() - started
    switch.mode = "works"
    switch.release.set()
    assert follower.future.result(PATIENCE).receipt.elapsed_ms >= waited * 1e3
    assert follower.run.job.deadline == follower.request.deadline.at  # type: ignore[attr-defined]


def test_a_follower_is_not_run_on_an_unhealthy_model(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    (leader,) = submit(application, picture())
    assert switch.entered.wait(PATIENCE)
    (follower,) = submit(application, picture())
    application.health.failed("toy")
    application.health.mark_unhealthy("toy")
    application.predictor.cancel(leader)
    with pytest.raises(NotReady, match="toy is unhealthy"):
        follower.future.result(PATIENCE)


def test_clients_that_leave_are_counted_once(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    tickets = [submit(application, picture())[0] for _ in range(3)]
    for ticket in [*tickets, *tickets]:
        ticket.future.cancel()
        application.predictor.cancel(ticket)
    left = lambda: application.metrics.registry.get_sample_value("tta_left_total", {"model": "toy"})  # noqa: E731
    assert until(left) == 3
    counted = application.statistics.of(("toy", "1"))["inference_stats"]
    assert (counted["fail"]["count"], counted["success"]["count"]) == (3, 0)


def test_an_unhealthy_model_gives_no_stored_answer(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    submit(application, picture())[0].future.result(PATIENCE)
    switch.mode = "fails"
    for seed in range(1, 20):
        if "toy" in application.health.unhealthy:
            break
        with pytest.raises((BackendFailed, NotReady)):
            submit(application, picture(seed))[0].future.result(PATIENCE)
    until(lambda: "toy" in application.health.unhealthy)
    with pytest.raises(NotReady):
        submit(application, picture())


@pytest.mark.parametrize("options", [{"budget_ms": -1.0}, {"merge": "none"}, {"policy": "none"}])
def test_wrong_options_are_refused_for_a_stored_image_too(
    toy: tuple[Application, Switchable], options: dict[str, object]
) -> None:
    application, _ = toy
    submit(application, picture())[0].future.result(PATIENCE)
    with pytest.raises(InvalidInput):
        submit(application, picture(), **options)


def test_a_stored_answer_equals_a_run(toy: tuple[Application, Switchable]) -> None:
    """Of the same image without a cache: the same scores to the bit."""
    application, _ = toy
    names = frozenset({"PROBABILITIES"})
    answers = [submit(application, picture(), tensors=names)[0].future.result(PATIENCE) for _ in range(2)]
    assert [answer.receipt.cached for answer in answers] == [False, True]
    plain = Application(Settings(models=application.settings.models, slots=1), [load_model(_folder(application))])
    plain.warm()
    try:
        own = submit(plain, picture(), tensors=names)[0].future.result(PATIENCE)
    finally:
        plain.close()
    for answer in answers:
        assert np.array_equal(answer.tensors["PROBABILITIES"], own.tensors["PROBABILITIES"])


@pytest.mark.parametrize("options", [{}, {"include": frozenset({"views"})}, {"tensors": frozenset({"PROBABILITIES"})}])
def test_stored_answers_take_no_more_than_they_count(
    toy: tuple[Application, Switchable], options: dict[str, object]
) -> None:
    application, _ = toy
    submit(application, picture(1000), **options)[0].future.result(PATIENCE)
    gc.collect()
    tracemalloc.start()
    try:
        counted, taken = application.predictor.cached_bytes, tracemalloc.get_traced_memory()[0]
        for seed in range(50):
            submit(application, picture(seed), **options)[0].future.result(PATIENCE)
        gc.collect()
        counted, taken = application.predictor.cached_bytes - counted, tracemalloc.get_traced_memory()[0] - taken
    finally:
        tracemalloc.stop()
    assert taken <= counted <= 3 * taken


def _folder(application: Application) -> Path:
    return application.settings.models / "toy"


def test_metrics_count_the_answers_of_hits(toy: tuple[Application, Switchable]) -> None:
    application, _ = toy
    for _ in range(3):
        submit(application, picture())[0].future.result(PATIENCE)
    read = application.metrics.registry.get_sample_value
    assert read("tta_answers_total", {"model": "toy", "stop_reason": "all_views"}) == 3
    assert read("tta_answer_seconds_count", {"model": "toy"}) == 3
    assert read("tta_stage_seconds_count", {"model": "toy", "stage": "infer"}) == 1
