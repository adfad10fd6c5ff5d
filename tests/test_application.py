"""An application: the models of a folder, and what it says before a request can be served."""

from pathlib import Path

import pytest

from tests.support import pictures
from tests.support.folders import FAILED, GARBAGE, GOOD, NO_RUN, NO_YAML, write_folder
from tests.support.references import MODELS
from tests.support.serving import PATIENCE
from tests.support.toys import faulty_model, serving
from tta_server import Answer, load
from tta_server.application import Application
from tta_server.backends import BACKENDS, RunOptions
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings
from tta_server.telemetry.observer import ImageAnswered
from tta_server.telemetry.prometheus import Metrics


def test_an_application_loads_every_bundled_model() -> None:
    application = Application.load(Settings(models=MODELS))
    assert sorted(application.models) == ["bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count"]
    assert not application.ready


def test_a_repository_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model found"):
        Application.load(Settings(models=tmp_path))


def test_one_broken_model_does_not_keep_the_others_from_being_loaded_and_warmed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, GOOD, *FAILED)
    application = Application.load(Settings(models=folder, slots=1))
    assert (list(application.models), list(application.health.load_failures)) == ([GOOD, NO_RUN], [GARBAGE, NO_YAML])
    assert not application.is_serving
    broken = application.models[NO_RUN]
    application.warm()
    assert (list(application.models), list(application.health.load_failures)) == ([GOOD], list(FAILED))
    assert application.is_serving
    assert [application.is_ready(name) for name in (GOOD, *FAILED)] == [True, False, False, False]
    assert application.model_names() == sorted((GOOD, *FAILED))
    application.close()
    assert not broken.lifetime.begin(), "its backend is closed"


def test_with_strict_the_first_error_is_raised(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, GOOD, NO_RUN)
    application = Application.load(Settings(models=folder, slots=1, strict=True))
    with pytest.raises(ConfigError, match="can't run"):
        application.warm()
    write_folder(tmp_path, NO_YAML)
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Application.load(Settings(models=folder, strict=True))


def test_the_error_of_the_only_model_is_raised_as_it_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, NO_YAML)
    with pytest.raises(ConfigError) as caught:
        Application.load(Settings(models=folder))
    assert str(caught.value) == f"{folder / NO_YAML / 'tta.yaml'}: is not valid YAML in line 2, column 1"
    with pytest.raises(ConfigError) as again:
        load(folder / NO_YAML)
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize("strict", [False, True])
def test_an_unexpected_error_fails_its_model_only_and_its_traceback_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    class Odd(OnnxRuntimeBackend):
        def __init__(self, path: Path, by: RunOptions) -> None:
            if GARBAGE in path.parts:
                raise ZeroDivisionError("not foreseen")
            super().__init__(path, by)

    monkeypatch.setitem(BACKENDS, "onnxruntime", Odd)
    settings = Settings(models=write_folder(tmp_path, GOOD, GARBAGE), strict=strict)
    if strict:
        with pytest.raises(ZeroDivisionError):
            Application.load(settings)
        return
    application = Application.load(settings)
    failure = application.health.load_failures[GARBAGE]
    assert failure.reason == "unexpected error: ZeroDivisionError: not foreseen"
    assert failure.public == "internal error: see the server's log"
    (record,) = caplog.records
    assert record.getMessage() == f"model {GARBAGE} failed to load"
    assert record.exc_info


def test_a_default_budget_that_is_too_small_is_named(tmp_path: Path) -> None:
    folder = faulty_model(tmp_path / "moody")
    config = (folder / "tta.yaml").read_text()
    (folder / "tta.yaml").write_text(config.replace("default_ms: 200", "default_ms: 0.01"))
    sentence = "states none, so moody's budget.default_ms of 0.01 counts"
    with serving(load_model(folder)) as client:
        for answer in (
            client.post("/v1/models/moody/predict", content=pictures.png()),
            client.get("/v1/models/moody/quote?width=8&height=8"),
        ):
            assert answer.status_code == 400
            assert sentence in answer.json()["error"]
        stated = client.get("/v1/models/moody/quote?width=8&height=8&budget_ms=0.01").json()["error"]
        assert "default_ms" not in stated


def test_applications_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.notify(ImageAnswered("m", "all_views", 1, 0.01, {"infer": 1.0}, wanted=1))
    assert b'tta_answers_total{model="m",stop_reason="all_views"} 1.0' in one.text()
    assert b"tta_answers_total{" not in other.text()


def test_workers_beside_the_slot_give_the_same_answers() -> None:
    """All views of several images at once, in batches that images share."""
    images = [pictures.jpeg(seed=seed) for seed in range(6)]
    options = Options(
        budget_ms=20_000, policy="shifts", min_views="all", stop="all", include=frozenset(["probabilities"])
    )

    def answers(workers: int) -> list[Answer]:
        application = Application(Settings(models=MODELS, slots=1, workers=workers), [load_model(MODELS / "cifar10")])
        application.warm()
        try:
            tickets = [application.predictor.submit("cifar10", image, options, Caller("test")) for image in images]
            return [ticket.future.result(PATIENCE) for ticket in tickets]
        finally:
            application.close()

    for own, other in zip(answers(0), answers(2), strict=True):
        assert [view["name"] for view in own.receipt.views] == [view["name"] for view in other.receipt.views]
        assert other.prediction["probabilities"] == pytest.approx(own.prediction["probabilities"], abs=1e-6)
