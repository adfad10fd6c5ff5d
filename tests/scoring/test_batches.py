"""Scoring gives the answers of requests, whatever the batch, and an image fails for itself alone."""

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tta_server
from tests.support import pictures
from tests.support.references import MODELS
from tests.support.scoring import BLACK, BROKEN, color_image, toy
from tests.support.toys import trap_image, trap_model
from tta_server.errors import InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.scoring.rows import row_of
from tta_server.scoring.scorer import Scorer, open_plan, read_scoring_options
from tta_server.serving.answer import Answer
from tta_server.serving.plan import Plan

ALL = {"min_views": "all", "stop": "all"}


def prediction(scored: Scored) -> dict[str, Any]:
    assert isinstance(scored.outcome, Answer), scored.outcome
    return scored.outcome.prediction


def close(found: Any, expected: Any) -> bool:
    """Equal, numbers within 1e-6 or, of coordinates and areas, within a rounding step."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == pytest.approx(expected, abs=2e-3 if isinstance(expected, float) and abs(expected) > 1 else 2e-6)


@pytest.mark.parametrize("name", ["clothing", "cifar10", "bloodcells", "mouse", "nuclei-count", "nuclei"])
def test_a_bundled_model_scores_as_it_answers(name: str) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    small = pictures.nuclei() if name.startswith("nuclei") else pictures.pixels(200, 160, 3)
    images = [sample, small, sample]
    with tta_server.load(MODELS / name, 1) as model:
        expected = [model.predict(image, budget_ms=10_000, **ALL) for image in images]
    with Scorer(MODELS / name, batch=3, **ALL) as scorer:
        found = scorer(images)
    for one, answer in zip(found, expected, strict=True):
        assert close(prediction(one), answer.prediction)
        assert isinstance(one.outcome, Answer)
        assert [view["name"] for view in one.outcome.receipt.views] == [view["name"] for view in answer.receipt.views]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    found = open_plan(toy(tmp_path_factory.mktemp("models")), read_scoring_options({}))
    yield found
    found.model.retire()


def scored(plan: Plan, batch: int, images: Sequence[bytes]) -> list[Scored]:
    named = (InputImage(str(number), partial(_same, image)) for number, image in enumerate(images))
    return list(BatchScorer(plan, batch, Limits()).score(named))


def _same(image: bytes) -> bytes:
    return image


COLORS = st.tuples(*[st.integers(2, 200)] * 3)


@given(st.lists(st.one_of(COLORS, st.sampled_from([BROKEN, color_image(BLACK)])), max_size=7), st.integers(1, 9))
def test_each_image_has_its_outcome_in_order_in_batches_of_any_size(plan: Plan, images: list[Any], batch: int) -> None:
    found = scored(plan, batch, [each if isinstance(each, bytes) else color_image(each) for each in images])
    assert [each.id for each in found] == [str(number) for number in range(len(images))]
    for image, one in zip(images, found, strict=True):
        if image == BROKEN:
            assert str(one.outcome).startswith("this is not an image")
        elif isinstance(image, bytes):
            assert one.outcome == "the model's output for view 'plain' holds NaN or infinity"
        else:
            roots = np.exp(np.sqrt(np.array(image, float) - 1))
            assert prediction(one)["top"][0]["probability"] == pytest.approx(roots.max() / roots.sum(), abs=1e-5)


def test_an_image_on_which_the_model_fails_fails_alone(tmp_path: Path) -> None:
    images = [trap_image(shade=60), trap_image("fails"), trap_image(shade=90), trap_image("nan"), trap_image()]
    with Scorer(trap_model(tmp_path / "traps", "n"), batch=5, min_views=1) as scorer:
        found = scorer(images)
    assert [isinstance(each.outcome, Answer) for each in found] == [True, False, True, False, True]
    assert found[1].outcome == "the model failed on this image"
    assert found[3].outcome == "the model's output for view 'plain' holds NaN or infinity"


def test_a_further_view_that_fails_is_left_out_as_in_an_answer(tmp_path: Path) -> None:
    with Scorer(trap_model(tmp_path / "traps", "n"), batch=4) as scorer:
        (one,) = scorer([trap_image(mirrored="nan")])
    assert isinstance(one.outcome, Answer)
    assert [view["name"] for view in one.outcome.receipt.views] == ["plain"]
    assert one.outcome.receipt.dropped == 1


def test_a_stop_rule_saves_views_and_keeps_the_answer() -> None:
    photos = [pictures.jpeg(seed=seed) for seed in range(6)]
    with Scorer(MODELS / "clothing", batch=4) as scorer:
        whole = [prediction(each)["top"][0]["label"] for each in scorer(photos)]
    with Scorer(MODELS / "clothing", batch=4, stop="certain") as scorer:
        stopped = scorer(photos)
    with tta_server.load(MODELS / "clothing", 1) as model:
        served = [model.predict(photo, budget_ms=10_000, stop="certain") for photo in photos]
    assert [prediction(each)["top"][0]["label"] for each in stopped] == whole
    counts = [len(each.outcome.receipt.views) for each in stopped if isinstance(each.outcome, Answer)]
    assert min(counts) < 8
    assert [each.outcome.receipt.stop_reason for each in stopped if isinstance(each.outcome, Answer)] == [
        answer.receipt.stop_reason for answer in served
    ]


def test_a_scorer_is_a_function_for_a_pool_of_processes(tmp_path: Path) -> None:
    images = [color_image((200, 9, 9)), color_image((9, 200, 9)), BROKEN]
    scorer = Scorer(toy(tmp_path), batch=2, policy="plain")
    assert pickle.loads(pickle.dumps(scorer)).__getstate__() == scorer.__getstate__()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(_labels, scorer, images).result()
    assert found == ["red", "green", None]


def _labels(scorer: Scorer, images: Sequence[bytes]) -> list[str | None]:
    with scorer:
        return [
            prediction(each)["top"][0]["label"] if isinstance(each.outcome, Answer) else None for each in scorer(images)
        ]


def test_scoring_from_python_yields_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(color_image((200, 9, 9)))
    found = tta_server.score([path, color_image((9, 9, 200)), np.full((8, 8, 3), 7, np.uint8)], toy(tmp_path), batch=1)
    first = next(found)
    assert (first.id, prediction(first)["top"][0]["label"]) == (str(path), "red")
    assert [each.id for each in found] == ["1", "2"]


def test_options_without_a_meaning_offline_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^budget_ms is for requests; scoring has no deadline$"):
        Scorer(tmp_path, budget_ms=100)
    with pytest.raises(InvalidInput, match="merge 'median'"):
        Scorer(toy(tmp_path), merge="median")([])


def test_a_row_has_no_times() -> None:
    (sample,) = (MODELS / "cifar10").glob("sample.*")
    with Scorer(MODELS / "cifar10", include=["views"]) as scorer:
        one, again = scorer([sample, sample])
    row = row_of(one)
    assert row == row_of(again)
    assert list(row) == ["id", "status", "prediction", "receipt"]
    assert not {"budget_ms", "elapsed_ms", "stages_ms", "request_id"} & row["receipt"].keys()
    assert {"label", "probability"} <= row["receipt"]["views"][0].keys()
