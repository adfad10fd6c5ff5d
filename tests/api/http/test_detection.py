"""Boxes over HTTP: the blood cells of the bundled sample, their JSON, and refusals."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import pictures
from tests.support.references import MODELS
from tests.support.serving import Server

BLOODCELLS = "/v1/models/bloodcells/predict"
SAMPLE = (MODELS / "bloodcells" / "sample.jpg").read_bytes()
LABELS = ["RBC", "WBC", "Platelets"]
DRAWN = {"RBC": 17, "WBC": 2, "Platelets": 4}
"""The cells that `models/draw_samples.py` drew."""
PATIENT = {"budget_ms": "10000", "min_views": "all"}


@pytest.fixture(scope="module")
def answer(server: Server) -> Iterator[dict[str, Any]]:
    with server.client() as client:
        yield predict(client, include="views,uncertainty,drawing")


def predict(client: httpx.Client, image: bytes = SAMPLE, **query: str) -> dict[str, Any]:
    response = client.post(BLOODCELLS, content=image, params={**PATIENT, **query})
    assert response.status_code == 200, response.text
    payload: dict[str, Any] = response.json()
    return payload


def counted(boxes: list[dict[str, Any]]) -> Counter[str]:
    return Counter(box["label"] for box in boxes if box["score"] >= 0.5)


# ---- boxes ----


def test_the_sample_s_cells_are_all_found(answer: dict[str, Any]) -> None:
    assert counted(answer["prediction"]["boxes"]) == DRAWN


def test_boxes_come_in_pixels_most_confident_first(answer: dict[str, Any]) -> None:
    prediction = answer["prediction"]
    assert list(prediction) == ["height", "width", "boxes", "drawing"]
    assert (prediction["width"], prediction["height"]) == pictures.opened(SAMPLE).size == (640, 480)
    scores = [box["score"] for box in prediction["boxes"]]
    assert scores == sorted(scores, reverse=True)
    for box in prediction["boxes"]:
        assert list(box) == ["label", "index", "score", "box", "views", "of", "spread"]
        assert LABELS[box["index"]] == box["label"]
        assert 0 < box["score"] <= 1
        left, top, right, below = box["box"]
        assert 0 <= left < right <= 640
        assert 0 <= top < below <= 480
        assert 1 <= box["views"] <= box["of"] <= 4
        assert box["spread"] >= 0


def test_the_receipt_has_each_views_boxes_and_their_differences(answer: dict[str, Any]) -> None:
    receipt = answer["receipt"]
    assert [view["name"] for view in receipt["views"]] == ["plain", "hflip", "vflip", "rot180"]
    for view in receipt["views"]:
        found = counted(view["boxes"])
        assert all(abs(found[label] - DRAWN[label]) <= 1 for label in LABELS)
    assert set(receipt["uncertainty"]) == {"vote_share", "mean_spread", "count_std"}
    assert 0 < receipt["uncertainty"]["vote_share"] <= 1
    assert 0 < receipt["confidence"] < 1


def test_only_the_included_parts_are_answered(client: httpx.Client) -> None:
    payload = predict(client, policy="plain")
    assert list(payload["prediction"]) == ["height", "width", "boxes"]
    assert "boxes" not in payload["receipt"]["views"][0]
    assert not payload["receipt"].get("uncertainty")


def test_the_policy_plain_is_the_plain_view_alone(client: httpx.Client, answer: dict[str, Any]) -> None:
    boxes = predict(client, policy="plain")["prediction"]["boxes"]
    plain = answer["receipt"]["views"][0]["boxes"]
    assert [(box["label"], box["box"]) for box in boxes] == [(box["label"], box["box"]) for box in plain]
    np.testing.assert_allclose([box["score"] for box in boxes], [box["score"] for box in plain], atol=1e-5)


@pytest.mark.parametrize("merge", ["wbf", "nms", "soft_nms", "nmw"])
def test_every_merge_finds_the_white_cells(client: httpx.Client, merge: str) -> None:
    payload = predict(client, merge=merge)
    assert payload["receipt"]["merge"] == merge
    white = [box for box in payload["prediction"]["boxes"] if box["label"] == "WBC" and box["score"] >= 0.5]
    assert len(white) == 2
    assert all((box["views"], box["of"]) == (4, 4) for box in white)


def test_cells_keep_their_place_in_an_image_of_another_shape(client: httpx.Client, answer: dict[str, Any]) -> None:
    """With 200 columns of background on the right, the most confident cells stay in place."""
    sample = np.asarray(pictures.opened(SAMPLE))
    ground = np.median(sample[::8, ::8].reshape(-1, 3), axis=0).astype(np.uint8)
    wide = np.concatenate([sample, np.broadcast_to(ground, (480, 200, 3))], axis=1)
    boxes = predict(client, pictures.encoded(wide))["prediction"]["boxes"]
    sure = [box for box in answer["prediction"]["boxes"] if box["score"] > 0.8 and box["box"][2] < 560]
    assert len(sure) >= 5
    for cell in sure:
        away = min(np.abs(np.subtract(box["box"], cell["box"])).max() for box in boxes if box["label"] == cell["label"])
        assert away < 12, cell


# ---- the drawing ----


def around(box: dict[str, Any], width: int, height: int) -> np.ndarray:
    """Where a box's outline and name may be drawn; the name may be moved to stay in the image."""
    line, letter, tall = 4, 12, 26
    left, top, right, below = box["box"]
    near = np.zeros((height, width), bool)
    near[max(0, round(top) - line) : round(below) + line, max(0, round(left) - line) : round(right) + line] = True
    near[max(0, round(top) + line) : max(0, round(below) - line), round(left) + line : round(right) - line] = False
    wide = letter * len(box["label"] + " 0.00")
    x = min(max(round(left) - line, 0), max(0, width - wide))
    near[max(0, round(top) - tall) : max(round(top) + line, tall), x : x + wide] = True
    return near


def test_the_drawing_is_the_image_with_boxes_and_names(answer: dict[str, Any]) -> None:
    sample = np.asarray(pictures.opened(SAMPLE))
    painting = pictures.opened(base64.b64decode(answer["prediction"]["drawing"]))
    assert (painting.format, painting.size) == ("PNG", (640, 480))
    # the server decodes the JPEG with another library's last bits
    changed = (np.abs(np.asarray(painting).astype(int) - sample) > 24).any(axis=2)
    shown = [box for box in answer["prediction"]["boxes"] if box["score"] >= 0.3]
    near = np.logical_or.reduce([around(box, 640, 480) for box in shown])
    assert not changed[~near].any()
    assert near.mean() < 0.5
    for box in shown:
        left, _, right, below = (round(value) for value in box["box"])
        outline = changed[max(0, below - 4) : below + 3, left + 2 : right - 2]
        assert outline.any(axis=0).mean() > 0.5, box


def test_a_white_image_s_drawing_is_white(client: httpx.Client) -> None:
    payload = predict(client, pictures.encoded(np.full((60, 90, 3), 255, np.uint8)), include="drawing")
    painting = np.asarray(pictures.opened(base64.b64decode(payload["prediction"]["drawing"])))
    assert painting.shape == (60, 90, 3)
    if not any(box["score"] >= 0.3 for box in payload["prediction"]["boxes"]):
        assert (painting == 255).all()


# ---- sizes ----


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (30, 31)])
def test_small_images_are_answered(client: httpx.Client, size: tuple[int, int]) -> None:
    prediction = predict(client, pictures.png(*size), policy="plain")["prediction"]
    assert (prediction["width"], prediction["height"]) == size
    for box in prediction["boxes"]:
        assert 0 <= box["box"][0] <= box["box"][2] <= size[0]
        assert 0 <= box["box"][1] <= box["box"][3] <= size[1]


def test_a_ribbon_is_too_large(client: httpx.Client) -> None:
    """A short side of 240 makes 192,000 pixels of 16,000 by 20."""
    response = client.post(BLOODCELLS, content=pictures.png_that_says(16_000, 20), params=PATIENT)
    assert response.status_code == 413
    assert response.json()["code"] == "too_large"
    assert "192000x240" in response.json()["error"]


# ---- refusals ----


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("include=masks", "unknown include 'masks'; bloodcells knows views, uncertainty, drawing"),
        ("include=views,probabilities", "unknown include 'probabilities'; bloodcells knows views"),
        ("merge=mean_probabilities", "unknown merge 'mean_probabilities'; bloodcells knows wbf, nms, soft_nms, nmw"),
        ("stop=certain", "stop certain is not available for detection; available: all"),
        ('stop={"epsilon":0.01}', "stop epsilon is not available for detection; available: all"),
        ('stop={"open":0.01}', "stop open is not available for detection; available: all"),
        ('stop={"tolerance":0.01}', "stop tolerance is not available for detection; available: all"),
        ("policy=d4", r"rot90.*\(its symmetries: hflip, vflip\)"),
        (
            'policy=["identity",{"hflip":true,"weight":[1,2]}]',
            "has 2 weights; give one number, or one for each of the 3",
        ),
    ],
)
def test_options_unknown_to_detection_are_refused_with_what_is_allowed(
    client: httpx.Client, query: str, expected: str
) -> None:
    response = client.post(f"{BLOODCELLS}?{query}", content=SAMPLE)
    assert response.status_code == 400, response.text
    assert response.json()["code"] == "invalid_input"
    assert re.search(expected, response.json()["error"]), response.json()["error"]


def test_detection_refuses_image_png(client: httpx.Client) -> None:
    response = client.post(BLOODCELLS, content=SAMPLE, headers={"Accept": "image/png"}, params=PATIENT)
    assert response.status_code == 400
    assert "no image/png answer" in response.json()["error"]


def test_weights_by_class_apply_over_http(client: httpx.Client) -> None:
    """Of two views, the second has weight 0 for white cells, which are then those of the plain view."""
    policy = ["identity", {"hflip": True, "weight": [1, 0, 1]}]
    boxes = predict(client, policy=json.dumps(policy), include="views")
    white = [box for box in boxes["prediction"]["boxes"] if box["label"] == "WBC" and box["score"] >= 0.5]
    plain = [box for box in boxes["receipt"]["views"][0]["boxes"] if box["label"] == "WBC" and box["score"] >= 0.5]
    assert len(white) == len(plain) == 2
    for merged, alone in zip(white, plain, strict=True):
        assert (merged["views"], merged["of"]) == (1, 1)
        assert merged["score"] == pytest.approx(alone["score"], abs=1e-5)
        np.testing.assert_allclose(merged["box"], alone["box"], atol=2e-3)
