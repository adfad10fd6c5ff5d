"""Submitting images without waiting: each is as it was, cancelling frees its views, wrong options are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.serving import PATIENCE, until
from tests.support.toys import Switchable, switchable, trap_image, trap_model
from tta_server import LoadedModel, load
from tta_server.application import Application
from tta_server.errors import BackendFailed, InvalidInput
from tta_server.repository.loader import load_model
from tta_server.settings import Settings


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[LoadedModel, Application, Switchable]]:
    """A model on one slot that gives no answer before it is released."""
    model, switch = switchable(load_model(trap_model(tmp_path / "toy")))
    application = Application(Settings(models=tmp_path, slots=1, drain_seconds=10.0), [model])
    application.warm()
    switch.mode = "stuck"
    with LoadedModel(application) as loaded:
        yield loaded, application, switch
        switch.mode = "works"
        switch.release.set()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    with load(trap_model(tmp_path_factory.mktemp("models") / "toy"), slots=1) as model:
        yield model


def test_frames_of_one_array_are_each_their_own(held: tuple[LoadedModel, Application, Switchable]) -> None:
    """A camera writes each frame into the same memory; all wait, behind the first, for the one slot."""
    loaded, _, switch = held
    frame = np.empty((8, 8, 3), np.uint8)
    first = loaded.submit(trap_image(), budget_ms=10_000, max_views=1)
    assert switch.entered.wait(PATIENCE)
    futures = []
    for number in range(8):
        frame[:] = trap_image(shade=20 * number)
        frame[..., number % 3] = 250
        futures.append(loaded.submit(frame, include=["probabilities"], budget_ms=10_000))
    frame[:] = 0
    switch.mode = "works"
    switch.release.set()
    assert isinstance(first.exception(PATIENCE), BackendFailed)
    for number, future in enumerate(futures):
        frame[:] = trap_image(shade=20 * number)
        frame[..., number % 3] = 250
        alone = loaded.predict(frame.copy(), include=["probabilities"], budget_ms=10_000)
        expected = alone.prediction["probabilities"]
        np.testing.assert_allclose(future.result(PATIENCE).prediction["probabilities"], expected, atol=1e-6)


def test_a_future_that_is_cancelled_frees_its_views(held: tuple[LoadedModel, Application, Switchable]) -> None:
    loaded, application, _ = held
    registry = application.metrics.registry
    future = loaded.submit(trap_image(), budget_ms=10_000)
    assert registry.get_sample_value("tta_jobs") == 1
    assert future.cancel()
    assert registry.get_sample_value("tta_jobs") == 0
    assert registry.get_sample_value("tta_left_total", {"model": "toy"}) == 1


def test_a_predict_that_is_interrupted_frees_its_views(
    held: tuple[LoadedModel, Application, Switchable], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, application, _ = held

    def interrupted(self: object, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loaded.predict(trap_image(), budget_ms=10_000)
    monkeypatch.undo()
    until(lambda: application.metrics.registry.get_sample_value("tta_jobs") == 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({"policy": [object()]}, "policy is made of .*: object is none", id="object"),
        ({"policy": {"views": {1, 2}}}, "policy is made of .*: set is none"),
        ({"stop": {"epsilon": 1j}}, "stop is made of .*: complex is none"),
        ({"policy": 3}, "^policy takes a preset's name or a list of views, not 3$"),
        ({"policy": b"hflip"}, "^policy takes a preset's name or a list of views, not "),
        ({"stop": 3}, "^stop takes text, or a dict like {'epsilon': 0.01}, not 3$"),
        ({"include": 3}, "^include takes text or a list of names, not 3$"),
        ({"include": {"views": 1}}, "^include takes text or a list of names, not "),
        ({"top_k": "9" * 5000}, "^top_k takes a whole number of at least 1 and at most 4300 digits, not '999"),
        ({"max_views": True}, "max_views takes no True"),
        ({"budget_ms": np.True_}, "budget_ms takes no True"),
    ],
    ids=str,
)
def test_options_of_a_wrong_type_are_refused(toy: LoadedModel, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        toy.submit(trap_image(), **options)


def test_what_to_include_may_be_any_row_of_names(toy: LoadedModel) -> None:
    names = ["agreement", "probabilities"]
    expected = set(toy.predict(trap_image(), include=names, budget_ms=10_000).prediction)
    for include in ((name for name in names), dict.fromkeys(names).keys(), ",".join(names)):
        assert set(toy.predict(trap_image(), include=include, budget_ms=10_000).prediction) == expected


def test_numbers_may_be_numpy_s(toy: LoadedModel) -> None:
    answer = toy.predict(
        trap_image(),
        policy=["identity", {"shift": np.array([1, 0])}],
        max_views=np.int64(2),
        budget_ms=np.float32(9000),
    )
    assert answer.receipt.planned == 2
