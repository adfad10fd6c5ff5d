"""Models that are reloaded or unloaded: their backends are closed once nothing uses them, and nothing keeps them."""

import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.serving import PATIENCE
from tests.support.toys import Switchable, faulty_model
from tta_server.application import Application
from tta_server.backends import BACKENDS
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.errors import ConfigError, NotReady, Overloaded, TTAError, UnknownModel
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.settings import Settings

IMAGE = np.full((8, 8, 3), 90, np.uint8)


class Closing(Switchable):
    """Notes how often it is closed, and whether a run was in progress then."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.backend)
        self.closed: list[int] = []
        self.happened = threading.Event()
        self._running = 0

    def infer(self, batch, abort=None):
        assert not self.closed
        self._running += 1
        try:
            return super().infer(batch, abort)
        finally:
            self._running -= 1

    def close(self):
        self.closed.append(self._running)
        super().close()
        self.happened.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return faulty_model(tmp_path / "moody")


@pytest.fixture
def application(folder: Path) -> Iterator[Application]:
    """One slot; the model's backend is a Closing, whatever it is loaded as."""
    ready = Application(Settings(models=folder.parent, slots=1, drain_seconds=1.0), [watched(load_model(folder))])
    ready.warm()
    yield ready
    ready.close()


def watched(model: Model) -> Model:
    return replace(model, backend=Closing(model))


def backend_of(application: Application) -> Closing:
    backend = application.models["moody"].backend
    assert isinstance(backend, Closing)
    return backend


def submit(application: Application) -> Future[Answer]:
    options = Options(budget_ms=10_000, max_views=1, stop="all")
    return application.predictor.submit("moody", IMAGE, options, Caller("test")).future


def tried(application: Application) -> Overloaded | None:
    try:
        submit(application)
    except Overloaded as error:
        return error
    return None


def test_a_model_without_requests_is_closed_when_it_is_replaced(application: Application) -> None:
    submit(application).result(PATIENCE)
    old = backend_of(application)
    application.load_model("moody")
    assert old.happened.wait(PATIENCE)
    assert old.closed == [0]
    submit(application).result(PATIENCE)


@pytest.mark.parametrize("how", ["reload", "unload"])
def test_requests_in_flight_keep_the_old_model_open(application: Application, how: str) -> None:
    old = backend_of(application)
    old.mode = "stuck"
    running = submit(application)
    assert old.entered.wait(PATIENCE)
    waiting = submit(application)
    application.load_model("moody") if how == "reload" else application.unload_model("moody")
    if how == "reload":
        new = submit(application)
    assert old.closed == []
    old.mode = "works"
    old.release.set()
    with pytest.raises(TTAError):  # what its first run then says
        running.result(PATIENCE)
    assert waiting.result(PATIENCE).receipt.views
    assert old.happened.wait(PATIENCE)
    assert old.closed == [0]
    if how == "reload":
        assert new.result(PATIENCE).receipt.views


def test_a_settled_job_whose_batch_still_runs_keeps_the_model_open(application: Application) -> None:
    old = backend_of(application)
    old.mode = "stuck"
    options = Options(budget_ms=10_000, max_views=1)
    ticket = application.predictor.submit("moody", IMAGE, options, Caller("test"))
    assert old.entered.wait(PATIENCE)
    application.predictor.cancel(ticket)
    application.unload_model("moody")
    assert ticket.future.done()
    assert old.closed == []
    old.release.set()
    assert old.happened.wait(PATIENCE)
    assert old.closed == [0]


def test_a_request_that_arrived_before_the_model_was_closed_is_answered_by_the_new_one(
    application: Application,
) -> None:
    """Its plan is of the old model, none of whose jobs is left."""
    old, options = application.models["moody"], Options(budget_ms=10_000)
    plan = application.predictor.plan(old, options)
    application.load_model("moody")
    (ticket,) = application.predictor.submit_all(old, [IMAGE], options, Caller("test"), plan)
    assert ticket.future.result(PATIENCE).receipt.views
    assert ticket.model is application.models["moody"]
    application.unload_model("moody")
    with pytest.raises(UnknownModel):
        application.predictor.submit_all(old, [IMAGE], options, Caller("test"), plan)


def test_refused_jobs_do_not_keep_a_model_open(application: Application) -> None:
    old = backend_of(application)
    old.mode = "stuck"
    running = submit(application)
    assert old.entered.wait(PATIENCE)
    refused = [answer for answer in (tried(application) for _ in range(2000)) if answer]
    assert refused
    old.mode = "works"
    application.unload_model("moody")
    old.release.set()
    assert isinstance(running.exception(PATIENCE), TTAError)
    assert old.happened.wait(PATIENCE)
    assert old.closed == [0]


def test_a_model_that_can_t_be_warmed_is_closed_and_the_old_one_serves(
    application: Application, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Model] = []

    def load_and_fail(path: Path, *given: Any) -> Model:
        made.append(watched(load_model(path, *given)))
        made[0].backend.mode = "fails"  # type: ignore[attr-defined]
        return made[0]

    monkeypatch.setattr("tta_server.serving.folders.load_model", load_and_fail)
    with pytest.raises(ConfigError):
        application.load_model("moody")
    assert made[0].backend.closed == [0]  # type: ignore[attr-defined]
    assert submit(application).result(PATIENCE).receipt.views


def test_a_model_may_be_served_by_another_application_after_the_first(folder: Path) -> None:
    model = load_model(folder)
    for _ in range(2):
        application = Application(Settings(models=folder.parent, slots=1), [model])
        application.warm()
        assert submit(application).result(PATIENCE).receipt.views
        application.close()
        with pytest.raises(NotReady, match="shutting down"):
            submit(application)


def test_closing_twice_is_harmless(application: Application) -> None:
    backend = backend_of(application)
    application.close()
    application.close()
    assert backend.closed == [0]


def test_nothing_keeps_a_replaced_model(folder: Path) -> None:
    """Not even where the garbage collector does not look at what was there when the server began, as in `serve`."""
    application = Application(Settings(models=folder.parent, slots=2), [load_model(folder)])
    application.warm()
    gc.collect()
    gc.freeze()
    try:
        model = application.models["moody"]
        kept: list[Any] = [weakref.ref(model), weakref.ref(model.backend), weakref.ref(model.backend._session)]  # type: ignore
        plan = make_plan(model, Options(policy='["identity", "hflip"]'))
        kept += [weakref.ref(plan)]
        make_layout(plan, application.predictor.plan(model, Options()).model.preprocessing.size)  # type: ignore
        del model, plan
        futures = [submit(application) for _ in range(20)]
        application.load_model("moody")
        futures += [submit(application) for _ in range(20)]
        assert all(future.result(PATIENCE).receipt.views for future in futures)
        del futures
        gc.collect()
        assert [ref() for ref in kept] == [None] * 4
    finally:
        gc.unfreeze()
        application.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads of other systems have no priority of their own")
def test_a_reload_is_prepared_at_a_lower_priority_than_requests_are_answered(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run of the new model notes its thread's niceness: first those of its warm-up, then a request's."""
    seen: list[int] = []

    class Noting(OnnxRuntimeBackend):
        def infer(self, batch, abort=None):
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().infer(batch, abort)

    monkeypatch.setitem(BACKENDS, "onnxruntime", Noting)
    application.load_model("moody")
    preparing = set(seen)
    seen.clear()
    submit(application).result(PATIENCE)
    assert min(preparing) > max(seen)
