"""In which batches an image's views run, with a stop rule and without; what is refused before; what is given back."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tta_server
from tests.scoring.test_coco import BRIGHT, RED, lit
from tests.scoring.test_windows import NotedBackend
from tests.support import pictures
from tests.support.commands import run
from tests.support.onnx_models import segmenter, write_model
from tests.support.references import MODELS
from tests.support.scoring import color_image, toy
from tests.support.toys import trap_model
from tests.tasks.test_every_task import TINY
from tta_server.errors import DeviceLost
from tta_server.imaging.decoding import Limits
from tta_server.scheduling.jobs import Job
from tta_server.scoring.batch_size import SIZES, measure_batch
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.scoring.scorer import Scorer, open_plan, read_scoring_options
from tta_server.serving.answer import Answer
from tta_server.serving.job import ImageJob, make_job
from tta_server.serving.plan import Plan

SHIFTS: list[Any] = [{"shift": [x, y]} for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))]
EIGHT = ["identity", "hflip", *SHIFTS]


@contextmanager
def noted(folder: Path, **options: Any) -> Iterator[tuple[Plan, NotedBackend]]:
    plan = open_plan(folder, read_scoring_options(options))
    backend = NotedBackend(plan.model.backend)
    try:
        yield replace(plan, model=replace(plan.model, backend=backend)), backend
    finally:
        plan.model.retire()


def scored(plan: Plan, batch: int, images: Sequence[Any], limits: Limits | None = None) -> list[Scored]:
    named = (InputImage(str(number), lambda image=image: image) for number, image in enumerate(images))
    return list(BatchScorer(plan, batch, limits or Limits()).score(named))


def answer_of(one: Scored) -> Answer:
    assert isinstance(one.outcome, Answer), one.outcome
    return one.outcome


def views_of(one: Scored) -> list[str]:
    return [view["name"] for view in answer_of(one).receipt.views]


def mean_views(answers: Sequence[Answer]) -> float:
    return sum(len(answer.receipt.views) for answer in answers) / len(answers)


@pytest.mark.parametrize(
    ("color", "runs", "views"),
    [((200, 9, 9), [5], 5), ((100, 99, 98), [5, 3], 8)],
    ids=["sure after the least number of views", "not sure"],
)
def test_views_run_up_to_where_the_rule_may_stop(
    tmp_path: Path, color: tuple[int, int, int], runs: list[int], views: int
) -> None:
    """Of 8 equal views 5 may be certain; after 5 with hardly a lead, all others are needed, and run together."""
    with noted(toy(tmp_path), policy=EIGHT, stop="certain") as (plan, backend):
        (one,) = scored(plan, 16, [color_image(color)])
    assert backend.runs == runs
    assert len(views_of(one)) == views


def test_images_that_need_more_views_share_their_batches(tmp_path: Path) -> None:
    """Of three images one stops; the further views of the two others are one batch."""
    with noted(toy(tmp_path), policy=EIGHT, stop="certain") as (plan, backend):
        found = scored(plan, 16, [color_image(color) for color in ((100, 99, 98), (200, 9, 9), (90, 91, 92))])
    assert backend.runs == [15, 6]
    assert [len(views_of(one)) for one in found] == [8, 5, 8]


def test_views_of_two_shapes_are_two_batches(tmp_path: Path) -> None:
    """Of the eight views of an image of 20 by 16 pixels, four are turned."""
    model = write_model(tmp_path / "bright", BRIGHT[0], {**BRIGHT[1], "policy": "d4"})
    with noted(model) as (plan, backend):
        (one,) = scored(plan, 16, [lit(RED)])
    assert backend.runs == [4, 4]
    assert len(views_of(one)) == 8


def test_an_image_that_is_too_large_for_the_model_is_a_row(tmp_path: Path) -> None:
    """Found from its header: nothing is decoded, and the model does not run for it."""
    entry = {"size": "free", "max_size": 16}
    model = write_model(tmp_path / "small", segmenter(), {**TINY["segmentation"][1], "input": entry})
    header = pictures.png_that_says(17, 8)
    with noted(model) as (plan, backend):
        small, large, unread = scored(plan, 4, [np.zeros((8, 16, 3), np.uint8), np.zeros((8, 17, 3), np.uint8), header])
    assert len(views_of(small)) == 1
    assert "; this model's limit is 16 pixels on the long side" in str(large.outcome)
    assert unread.outcome == large.outcome
    assert backend.runs == [1]


def test_every_job_is_settled_also_those_that_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is lost after a first round: of three images one has its answer."""
    jobs = list[Job[ImageJob]]()

    def keep(*made_of: Any) -> Job[ImageJob]:
        jobs.append(make_job(*made_of))
        return jobs[-1]

    monkeypatch.setattr("tta_server.scoring.batches.make_job", keep)
    images = [color_image(color) for color in ((100, 99, 98), (200, 9, 9), (90, 91, 92))]
    with noted(toy(tmp_path), policy=EIGHT, stop="certain") as (plan, backend):
        backend.error, backend.fails_at = DeviceLost("gone"), 1
        with pytest.raises(DeviceLost, match="gone"):
            scored(plan, 16, images)
        assert backend.runs == [15, 6]
    assert [job.progress.settled for job in jobs] == [True] * 3
    failures = [job.payload.future.exception(timeout=0) for job in jobs]
    assert [str(failure) for failure in failures] == ["scoring was stopped", "None", "scoring was stopped"]


def test_a_receipt_states_what_is_open_as_in_an_answer(tmp_path: Path) -> None:
    """Of 20 columns 14 are decided once more than half of the views agree; the others stay open."""
    network, config = TINY["segmentation"]
    folder = write_model(tmp_path / "toy", network, {**config, "policy": "d4"})
    pixels = np.zeros((16, 20, 3), np.uint8)
    pixels[:, :14], pixels[:, 14:] = [255, 0, 0], [128, 127, 0]
    image, options = pictures.encoded(pixels), {"stop": {"open": 0.5}}
    with Scorer(folder, **options) as scorer:
        (one,) = scorer([image])
    with tta_server.load(folder, 1) as model:
        served = model.predict(image, budget_ms=60_000, **options).receipt
    found = answer_of(one).receipt
    assert found.stop_reason == served.stop_reason == "settled"
    assert len(found.views) == len(served.views) < 8
    assert found.open == served.open == pytest.approx(6 / 20)


# ---- a stop rule with a promise ----


def test_scoring_with_a_calibrated_epsilon_keeps_its_promise_and_saves_views(tmp_path: Path) -> None:
    """On the images of the calibration; a server may stop earlier, since it runs fewer views at a time."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(60):
        (photos / f"{seed:02d}.png").write_bytes(pictures.png(32, 32, seed))
    model = shutil.copytree(MODELS / "cifar10", tmp_path / "models" / "cifar10")
    done = run("calibrate", "cifar10", "--models", model.parent, "--data", photos, "-e", "0.05")
    assert done.returncode == 0, done.stderr
    images, stop = sorted(photos.iterdir()), {"epsilon": 0.05}
    with Scorer(model, batch=8, stop="all") as scorer:
        whole = [answer_of(one) for one in scorer(images)]
    with Scorer(model, batch=8, stop=stop) as scorer:
        stopped = [answer_of(one) for one in scorer(images)]
    with tta_server.load(model, 1) as loaded:
        served = [loaded.predict(path, stop=stop, budget_ms=10_000) for path in images]
    for other in (whole, served):
        assert sum(a.result.label != b.result.label for a, b in zip(stopped, other, strict=True)) <= 0.05 * len(images)
    assert mean_views(stopped) < 0.6 * mean_views(whole)
    assert {answer.receipt.stop_reason for answer in stopped} == {"confident", "all_views"}
    same = [(a, b) for a, b in zip(stopped, served, strict=True) if len(a.receipt.views) == len(b.receipt.views)]
    assert len(same) > len(images) / 2
    assert all(np.allclose(a.result.probabilities, b.result.probabilities, atol=1e-6) for a, b in same)


# ---- the size of batches ----


class Clock:
    """Seconds as a model's runs would take them: `call` a run, `each` a row, and one more for the very first run."""

    def __init__(self, backend: NotedBackend, call: float, each: float) -> None:
        self._backend = backend
        self._call, self._each = call, each

    def perf_counter(self) -> float:
        runs = self._backend.runs
        return sum(self._call + self._each * rows for rows in runs) + bool(runs)


@pytest.mark.parametrize(
    ("call", "each", "size"),
    [
        (0.0, 0.01, 1),  # rows share nothing
        (0.001, 0.01, 4),  # per row 0.011, 0.0105, 0.01025: within 3 % of 0.01003 from 4 rows on
        (0.01, 0.01, 32),
        (0.5, 1.0, 2),  # per row 1.5 and 1.25; a run of two takes over 2 s, and is the last
    ],
)
def test_the_smallest_size_near_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: float, each: float, size: int
) -> None:
    with noted(toy(tmp_path), max_views=1) as (plan, backend):
        monkeypatch.setattr("tta_server.scoring.batch_size.time", Clock(backend, call, each))
        assert measure_batch(plan) == size
    assert set(backend.runs) <= set(SIZES)


def test_a_model_of_one_row_is_not_measured(tmp_path: Path) -> None:
    with noted(trap_model(tmp_path / "traps", 1)) as (plan, backend):
        assert measure_batch(plan) == 1
    assert not backend.runs
