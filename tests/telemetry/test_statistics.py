"""What each model has done, as the protocol's statistics extension counts it."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.onnx_models import classifier, write_model
from tests.support.patterns import noise
from tests.support.serving import until
from tests.support.toys import Switchable, switchable
from tests.tasks.test_every_task import FIXED, config
from tta_server.api.oip.metadata import describe_statistics
from tta_server.application import Application
from tta_server.errors import BackendFailed, InvalidInput, TTAError, UnknownModel
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings
from tta_server.telemetry.observer import CacheHit, CacheMiss, RequestAnswered, RequestFailed, ViewsRan
from tta_server.telemetry.statistics import Statistics
from tta_server.telemetry.timings import StageTimes
from tta_server.views.geometry import Size

KEY = ("toy", "1")
STAGES_MS = {"decode": 1.0, "prepare": 2.0, "queue": 4.0, "infer": 8.0, "merge": 16.0}
REQUEST = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
DONE = Options(budget_ms=10_000, policy="hflip", min_views="all", stop="all")


def batch_of(views: int, prepare: float, infer: float, merge: float) -> ViewsRan:
    return ViewsRan(KEY, prepare, infer, merge, [StageTimes(0.0)] * views)


# ---- the counting itself ----


def test_a_model_of_which_nothing_is_known_has_done_nothing() -> None:
    counted = Statistics().of(KEY)
    nothing = {"count": 0, "ns": 0}
    assert counted == {
        "name": "toy",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(REQUEST, nothing),
        "batch_stats": [],
    }


def test_an_answer_by_hand() -> None:
    statistics = Statistics()
    statistics.notify(RequestAnswered(KEY, 0.5, STAGES_MS))
    counted = statistics.of(KEY)["inference_stats"]
    assert {stage: entry["ns"] for stage, entry in counted.items()} == {
        "success": 500_000_000,
        "fail": 0,
        "queue": 4_000_000,
        "compute_input": 3_000_000,
        "compute_infer": 8_000_000,
        "compute_output": 16_000_000,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    assert [counted[stage]["count"] for stage in ("success", "queue", "compute_infer", "fail")] == [1, 1, 1, 0]


def test_a_failure_by_hand() -> None:
    statistics = Statistics()
    statistics.notify(RequestFailed(KEY, 0.25))
    counted = statistics.of(KEY)["inference_stats"]
    assert counted["fail"] == {"count": 1, "ns": 250_000_000}
    assert all(entry["count"] == 0 for stage, entry in counted.items() if stage != "fail")


def test_the_cache_by_hand() -> None:
    """A request of two stored images, and one of an image that had to run."""
    statistics = Statistics()
    for event in (
        CacheHit(KEY, 0.001, is_shared=False),
        CacheHit(KEY, 0.003, is_shared=True),
        RequestAnswered(KEY, 0.004, {}),
        CacheMiss(KEY, 0.002),
        RequestAnswered(KEY, 0.5, STAGES_MS),
    ):
        statistics.notify(event)
    counted = statistics.of(KEY)["inference_stats"]
    assert counted["cache_hit"] == {"count": 2, "ns": 4_000_000}
    assert counted["cache_miss"] == {"count": 1, "ns": 2_000_000}
    assert counted["success"] == {"count": 2, "ns": 504_000_000}
    assert {counted[stage]["count"] for stage in ("queue", "compute_input", "compute_infer", "compute_output")} == {1}


@given(st.lists(st.tuples(st.integers(1, 8), *[st.integers(0, 1000)] * 3), max_size=20))
def test_batches_are_counted_by_their_size(batches: list[tuple[int, int, int, int]]) -> None:
    statistics = Statistics()
    for views, prepare, infer, merge in batches:
        statistics.notify(batch_of(views, prepare / 1e3, infer / 1e3, merge / 1e3))
    counted = statistics.of(KEY)
    assert counted["inference_count"] == sum(batch[0] for batch in batches)
    assert counted["execution_count"] == len(batches)
    assert [entry["batch_size"] for entry in counted["batch_stats"]] == sorted({batch[0] for batch in batches})
    assert (counted["last_inference"] > 0) == bool(batches)
    for entry in counted["batch_stats"]:
        own = [batch for batch in batches if batch[0] == entry["batch_size"]]
        for index, stage in enumerate(("compute_input", "compute_infer", "compute_output"), start=1):
            assert entry[stage] == {"count": len(own), "ns": sum(batch[index] for batch in own) * 1_000_000}


def test_models_and_versions_are_counted_apart() -> None:
    statistics = Statistics()
    statistics.notify(RequestFailed(KEY, 1))
    assert statistics.of(("toy", "2"))["inference_stats"]["fail"]["count"] == 0
    assert statistics.of(("other", "1"))["inference_stats"]["fail"]["count"] == 0
    statistics.forget(KEY)
    assert statistics.of(KEY)["inference_stats"]["fail"]["count"] == 0


def test_threads_lose_nothing() -> None:
    statistics = Statistics()

    def work() -> None:
        for _ in range(500):
            statistics.notify(batch_of(2, 0, 1e-3, 0))
            statistics.notify(RequestAnswered(KEY, 1e-3, STAGES_MS))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = statistics.of(KEY)
    assert (counted["inference_count"], counted["execution_count"]) == (8000, 4000)
    assert counted["inference_stats"]["success"] == {"count": 4000, "ns": 4_000_000_000}


# ---- what really ran ----


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[tuple[Application, Switchable]]:
    folder = write_model(tmp_path / "toy", classifier(), config("classification", FIXED, {"kind": "probabilities"}))
    model, switch = switchable(load_model(folder))
    application = Application(Settings(models=tmp_path, slots=2), [model])
    application.warm()
    try:
        yield application, switch
    finally:
        switch.release.set()
        application.close()


def ask(application: Application, images: int = 1, options: Options = DONE) -> list[TTAError | None]:
    """A request of that many images, once it is counted; returns the error of each image, or None."""
    before = requests(application)
    pictures = [noise(Size(9, 7), seed=seed) for seed in range(images)]
    tickets = application.predictor.submit_all(application.models["toy"], pictures, options, Caller("test"))
    errors = [ticket.future.exception() for ticket in tickets]
    until(lambda: requests(application) > before)
    return errors  # type: ignore[return-value]


def counts(application: Application) -> dict[str, int]:
    (counted,) = describe_statistics(application, "toy")["model_stats"]
    ended = {stage: counted["inference_stats"][stage]["count"] for stage in ("success", "fail")}
    return {**ended, "views": counted["inference_count"], "batches": counted["execution_count"]}


def requests(application: Application) -> int:
    counted = counts(application)
    return counted["success"] + counted["fail"]


def test_warming_is_no_request(toy: tuple[Application, Switchable]) -> None:
    assert counts(toy[0]) == {"success": 0, "fail": 0, "views": 0, "batches": 0}


def test_a_request_of_several_images_is_one(toy: tuple[Application, Switchable]) -> None:
    application, _ = toy
    assert ask(application, 3) == [None] * 3
    counted = counts(application)
    assert (counted["success"], counted["fail"], counted["views"]) == (1, 0, 6)
    assert 1 <= counted["batches"] <= 6
    (model,) = describe_statistics(application)["model_stats"]
    assert sum(e["batch_size"] * e["compute_infer"]["count"] for e in model["batch_stats"]) == 6
    stages = model["inference_stats"]
    assert all(stages[stage]["ns"] > 0 for stage in ("success", "queue", "compute_input", "compute_infer"))


def test_a_request_that_is_refused_has_failed(toy: tuple[Application, Switchable]) -> None:
    application, _ = toy
    for options in (Options(policy="nonsense"), Options(merge="nonsense"), Options(budget_ms=-1)):
        with pytest.raises(InvalidInput):
            ask(application, options=options)
    assert counts(application) == {"success": 0, "fail": 3, "views": 0, "batches": 0}


def test_a_request_whose_model_fails_has_failed_once(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "fails"
    assert all(isinstance(error, BackendFailed) for error in ask(application, 2))
    counted = counts(application)
    assert (counted["success"], counted["fail"]) == (0, 1)


def test_a_request_whose_client_left_has_failed(toy: tuple[Application, Switchable]) -> None:
    application, switch = toy
    switch.mode = "stuck"
    (ticket,) = application.predictor.submit_all(application.models["toy"], [noise(Size(9, 7))], DONE, Caller("test"))
    application.predictor.cancel(ticket)
    switch.release.set()
    try:
        assert ticket.future.exception() is not None
    except CancelledError:
        assert ticket.future.cancelled()
    assert until(lambda: requests(application)) == 1
    assert counts(application)["fail"] == 1


def test_an_unknown_model_has_no_statistics(toy: tuple[Application, Switchable]) -> None:
    with pytest.raises(UnknownModel):
        describe_statistics(toy[0], "other")
    with pytest.raises(UnknownModel):
        describe_statistics(toy[0], "toy", "2")


def test_a_reloaded_model_starts_new_statistics(toy: tuple[Application, Switchable]) -> None:
    application, _ = toy
    ask(application)
    assert counts(application)["success"] == 1
    application.load_model("toy")
    assert counts(application) == {"success": 0, "fail": 0, "views": 0, "batches": 0}
    ask(application)
    assert counts(application)["success"] == 1
