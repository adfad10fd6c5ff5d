"""Runs of images for calibration equal the answers to requests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import pictures
from tests.support.onnx_models import classifier, write_model
from tests.support.references import MODELS
from tests.support.toys import faulty_model
from tta_server import load
from tta_server.calibration.fit import Run
from tta_server.calibration.runs import SkippedImage, full_plan, run_images
from tta_server.errors import InvalidInput
from tta_server.repository.loader import load_model
from tta_server.serving.plan import Options, Plan, make_plan


def written(folder: Path, images: dict[str, bytes]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in images]


def runs_of(plan: Plan, paths: list[Path]) -> list[Any]:
    return list(run_images(plan, paths, threads=2))


def test_a_run_holds_the_answers_to_requests_of_each_number_of_views(tmp_path: Path) -> None:
    paths = written(tmp_path, {f"{seed}.jpg": pictures.jpeg(seed=seed) for seed in range(3)})
    with load(MODELS / "clothing") as model:
        for path, run in zip(paths, runs_of(full_plan(model.model), paths), strict=True):
            for views in range(1, 9):
                asked = {"max_views": views, "min_views": "all", "stop": "all", "include": ["probabilities"]}
                probabilities = model.predict(path, budget_ms=10_000, **asked).prediction["probabilities"]
                second, top = sorted(probabilities)[-2:]
                assert run.margins[views - 1] == pytest.approx(top - second, abs=1e-5)
                assert run.labels[views - 1] == int(np.argmax(probabilities))


def test_images_that_can_not_be_run_are_named_in_their_place(tmp_path: Path) -> None:
    """The moody model gives NaN for a black image."""
    grey, black = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8, 3), np.uint8)
    images = {"a.png": pictures.encoded(grey), "b.png": b"no image", "c.png": pictures.encoded(black)}
    paths = [*written(tmp_path / "images", images), tmp_path / "gone.png"]
    first, *skipped = runs_of(full_plan(load_model(faulty_model(tmp_path / "moody"))), paths)
    assert isinstance(first, Run)
    assert [image.path for image in skipped] == paths[1:]
    reasons = [image.reason for image in skipped]
    assert "not an image" in reasons[0]
    assert "view 'plain' holds NaN" in reasons[1]
    assert "No such file" in reasons[2]
    assert all(isinstance(image, SkippedImage) for image in skipped)


@pytest.mark.parametrize("batch", ["n", 1])
def test_views_of_several_sizes_and_models_of_one_image_at_a_time(tmp_path: Path, batch: Any) -> None:
    """A turn of an oblong input changes its size, so that views differ in their buckets."""
    config = {
        "task": "classification",
        "labels": ["red", "green", "blue"],
        "input": {"size": "free", "max_size": 64, "scale": 1},
        "output": {"kind": "logits"},
        "policy": ["identity", "hflip", {"rot90": 1}, "vflip"],
        "symmetries": ["hflip", "rot90"],
    }
    folder = write_model(tmp_path / "tiny", classifier((batch, 3, "h", "w")), config)
    plan = full_plan(load_model(folder))
    pixels = pictures.pixels(20, 12)
    (run,) = runs_of(plan, written(tmp_path / "images", {"a.png": pictures.encoded(pixels)}))
    means = pixels.reshape(-1, 3).mean(axis=0)
    assert run.labels == [int(means.argmax())] * 4
    assert run.margins == pytest.approx([run.margins[0]] * 4, abs=1e-4)


def test_a_task_without_a_margin_is_refused_with_the_stop_rules_that_it_has() -> None:
    with pytest.raises(
        InvalidInput, match="segmentation has no one margin to stop at; it knows stop all, certain, open"
    ):
        full_plan(load_model(MODELS / "nuclei"))


def test_a_policy_of_one_view_is_refused(tmp_path: Path) -> None:
    config = {
        "task": "classification",
        "labels": ["red", "green", "blue"],
        "input": {"size": [8, 8]},
        "output": {"kind": "logits"},
        "policy": "plain",
    }
    with pytest.raises(InvalidInput, match="only the plain view"):
        full_plan(load_model(write_model(tmp_path / "tiny", classifier(), config)))


def test_all_views_run_whatever_the_models_own_rule_is() -> None:
    plan = full_plan(load_model(MODELS / "clothing"))
    assert plan is make_plan(plan.model, Options(min_views="all", stop="all"))
    assert plan.mandatory == len(plan.views) == 8
