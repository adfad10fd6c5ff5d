"""An application: the models of a folder, and what it says before a request can be served."""

from pathlib import Path

import pytest

from tests.support import pictures
from tests.support.references import MODELS
from tests.support.toys import faulty_model, serving
from tta_server.application import Application
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
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
    one.notify(ImageAnswered("m", "all_views", 1, 0.01, {"infer": 1.0}))
    assert b'tta_answers_total{model="m",stop_reason="all_views"} 1.0' in one.text()
    assert b"tta_answers_total{" not in other.text()
