"""`/v1/models/{name}/predict` of a real server: answers are the model's, also with other clients."""

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import pictures, references
from tests.support.serving import Server, until

CLOTHING = "/v1/models/clothing/predict"
NUCLEI = "/v1/models/nuclei/predict"
PATIENT = {"budget_ms": "10000", "min_views": "all"}
POLICY = ["plain", "hflip", "shift [6,0]", "shift [-6,0]", "shift [0,6]", "shift [0,-6]"]
POLICY += ["hflip+shift [6,0]", "hflip+shift [-6,0]"]


def predict(client: httpx.Client, image: bytes, path: str = CLOTHING, **query: str) -> dict[str, Any]:
    response = client.post(path, content=image, params={**PATIENT, **query})
    assert response.status_code == 200, response.text
    payload: dict[str, Any] = response.json()
    return payload


def probabilities(client: httpx.Client, image: bytes, **query: str) -> np.ndarray:
    return np.array(predict(client, image, include="probabilities", **query)["prediction"]["probabilities"], np.float32)


# ---- predictions ----


@pytest.mark.parametrize("make", [pictures.png, pictures.jpeg])
@pytest.mark.parametrize("size", [(160, 200), (301, 140)])
def test_one_view_is_the_models_own_output(client: httpx.Client, make: Any, size: tuple[int, int]) -> None:
    image = make(*size, seed=1)
    assert np.array_equal(probabilities(client, image, policy="plain"), references.clothing(pictures.opened(image)))


def test_every_client_gets_the_answer_to_its_own_image(server: Server, client: httpx.Client) -> None:
    """Eight clients with eight views each share batches."""
    images = [pictures.jpeg(seed=seed) for seed in range(16)]
    alone = [probabilities(client, image) for image in images]
    assert len({int(answer.argmax()) for answer in alone} | {round(float(a.max()), 6) for a in alone}) > 8

    def share(number: int) -> list[np.ndarray]:
        with server.client() as own:
            return [probabilities(own, images[(number + 2 * k) % 16]) for k in range(6)]

    with ThreadPoolExecutor(8) as clients:
        shares = list(clients.map(share, range(8)))
    for number, answers in enumerate(shares):
        for k, answer in enumerate(answers):
            np.testing.assert_allclose(answer, alone[(number + 2 * k) % 16], atol=1e-5)


def test_http_and_the_python_api_name_the_same_views(client: httpx.Client) -> None:
    assert [view["name"] for view in predict(client, pictures.jpeg())["receipt"]["views"]] == POLICY


# ---- masks ----


def test_a_mask_has_the_images_own_size_and_is_the_models(client: httpx.Client) -> None:
    array = pictures.nuclei(96, 80)
    response = client.post(
        NUCLEI, content=pictures.encoded(array), params={"policy": "plain"}, headers={"Accept": "image/png"}
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    mask = np.asarray(pictures.opened(response.content))
    assert mask.shape == (80, 96)
    assert np.array_equal(mask, references.nuclei_mask(array))


@pytest.mark.parametrize("size", [(90, 70), (33, 121)])
def test_a_mask_as_a_picture_is_the_mask_in_json(client: httpx.Client, size: tuple[int, int]) -> None:
    image = pictures.encoded(pictures.nuclei(*size))
    picture = client.post(NUCLEI, content=image, params=PATIENT, headers={"Accept": "image/png"})
    payload = predict(client, image, NUCLEI)["prediction"]
    in_json = pictures.opened(base64.b64decode(payload["mask"]))
    assert pictures.opened(picture.content).size == in_json.size == size == (payload["width"], payload["height"])
    assert np.mean(np.asarray(pictures.opened(picture.content)) != np.asarray(in_json)) < 1e-3
    assert picture.headers["TTA-Views"] == "8"
    assert picture.headers["TTA-Stop-Reason"] == "all_views"
    assert picture.headers["X-Request-Id"]


# ---- the query ----


def test_a_short_budget_answers_a_prefix(client: httpx.Client) -> None:
    image = pictures.encoded(pictures.nuclei(512, 512))
    refusal = client.post(NUCLEI, content=image, params={"budget_ms": "1"}).json()["error"]
    (least,) = re.findall(r"(\d+) ms", refusal)
    params = {"budget_ms": str(1.5 * int(least))}

    def answered() -> httpx.Response | None:  # a busy machine may miss such a short budget
        response = client.post(NUCLEI, content=image, params=params)
        return response if response.status_code == 200 else None

    payload = until(answered).json()
    names = [view["name"] for view in payload["receipt"]["views"]]
    policy = client.get("/v1/models/nuclei").json()["policy"]["views"]
    assert names == policy[: len(names)]
    assert 1 <= len(names) < 8
    assert payload["receipt"]["stop_reason"] in ("deadline", "capacity")
    assert payload["receipt"]["planned"] == 8


@pytest.mark.parametrize("views", [1, 3, 8, 100])
def test_max_views_is_a_prefix_of_that_length(client: httpx.Client, views: int) -> None:
    receipt = predict(client, pictures.png(), max_views=str(views))["receipt"]
    assert [view["name"] for view in receipt["views"]] == POLICY[:views]
    assert receipt["planned"] == min(views, 8)
    assert receipt["stop_reason"] == "all_views"


@pytest.mark.parametrize("merge", ["mean_probabilities", "mean_logits", "geometric_mean", "max", "vote"])
def test_every_listed_merge_is_accepted(client: httpx.Client, merge: str) -> None:
    assert merge in client.get("/v1/models/clothing").json()["merges"]
    payload = predict(client, pictures.png(), merge=merge)
    assert payload["receipt"]["merge"] == merge


def test_a_vote_counts_the_views_own_winners(client: httpx.Client) -> None:
    payload = predict(client, pictures.jpeg(seed=4), merge="vote", include="views,probabilities")
    winners = [view["index"] for view in payload["receipt"]["views"]]
    shares = np.bincount(winners, minlength=10) / 8
    np.testing.assert_allclose(payload["prediction"]["probabilities"], shares, atol=1e-6)


def test_include_adds_what_it_names_and_nothing_else(client: httpx.Client) -> None:
    bare = predict(client, pictures.png())
    assert set(bare["prediction"]) == {"top"}
    assert set(bare["receipt"]["views"][0]) == {"name", "weight"}
    payload = predict(client, pictures.png(), include="views, agreement,probabilities")
    assert set(payload["prediction"]) == {"top", "agreement", "probabilities"}
    assert set(payload["receipt"]["views"][0]) == {"name", "weight", "label", "index", "probability"}
    assert sum(payload["prediction"]["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top_k", "listed"), [("1", 1), ("10", 10), ("99", 10)])
def test_top_k_limits_the_classes_most_probable_first(client: httpx.Client, top_k: str, listed: int) -> None:
    top = predict(client, pictures.png(), top_k=top_k)["prediction"]["top"]
    assert len(top) == listed
    values = [entry["probability"] for entry in top]
    assert values == sorted(values, reverse=True)


def test_an_inline_policy_runs_its_own_views(client: httpx.Client) -> None:
    views = ["identity", {"rotate": 10}, ["hflip", {"zoom": 1.1}], {"name": "dim", "steps": [{"brightness": 0.8}]}]
    receipt = predict(client, pictures.png(), policy=json.dumps(views))["receipt"]
    assert [view["name"] for view in receipt["views"]] == ["plain", "rotate 10", "hflip+zoom 1.1", "dim"]
    assert receipt["policy"]["name"] == "inline"
    same = predict(client, pictures.png(), policy=json.dumps(views, indent=2))["receipt"]
    assert same["policy"]["digest"] == receipt["policy"]["digest"]


@pytest.mark.parametrize(
    "name", ["plain", "hflip", "shifts", "five_crop", "ten_crop", "scales", "flip_scales", "light"]
)
def test_every_preset_that_keeps_the_labels_is_accepted(client: httpx.Client, name: str) -> None:
    receipt = predict(client, pictures.png(), policy=name)["receipt"]
    assert receipt["policy"]["name"] == name
    assert len(receipt["views"]) == receipt["planned"]


# ---- the body ----


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "image/png"},
        {"Content-Type": "image/jpeg"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; charset=utf-8"},
        {"Content-Type": "nonsense"},
    ],
    ids=str,
)
def test_a_raw_body_of_any_content_type_is_accepted(client: httpx.Client, headers: dict[str, str]) -> None:
    response = client.post(CLOTHING, content=pictures.png(), params={"policy": "plain"}, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("size", [(160, 200), (700, 800)])
def test_a_multipart_body_is_the_same_image(client: httpx.Client, size: tuple[int, int]) -> None:
    image = pictures.png(*size)
    response = client.post(
        CLOTHING, files={"image": ("photo.png", image, "image/png")}, params={**PATIENT, "include": "probabilities"}
    )
    assert response.status_code == 200, response.text
    sent = np.array(response.json()["prediction"]["probabilities"], np.float32)
    np.testing.assert_allclose(sent, probabilities(client, image), atol=1e-6)


def test_a_chunked_body_is_the_same_image(client: httpx.Client) -> None:
    image = pictures.png(seed=3)

    def parts() -> Iterator[bytes]:
        for start in range(0, len(image), 1000):
            yield image[start : start + 1000]

    response = client.post(CLOTHING, content=parts(), params={"policy": "plain"})
    assert response.status_code == 200, response.text


# ---- receipts and headers ----


def test_a_receipt_describes_what_ran(client: httpx.Client) -> None:
    response = client.post(CLOTHING, content=pictures.jpeg(), params=PATIENT)
    payload = response.json()
    receipt = payload["receipt"]
    assert set(receipt) == {
        "views", "planned", "started", "dropped", "merge", "stop", "stop_reason", "confidence", "budget_ms",
        "elapsed_ms", "stages_ms", "policy", "request_id",
    }  # fmt: skip
    assert receipt["started"] == receipt["planned"] == len(receipt["views"])
    assert receipt["budget_ms"] == 10_000
    assert 0 < receipt["elapsed_ms"] < 10_000
    assert set(receipt["stages_ms"]) == {"decode", "prepare", "queue", "infer", "merge"}
    assert receipt["request_id"] == response.headers["X-Request-Id"]
    assert receipt["policy"]["digest"] == client.get("/v1/models/clothing").json()["policy"]["digest"]


@pytest.mark.parametrize("page", ["/v1/models", "/v1/models/clothing", "/v1/policies", "/livez", "/readyz", "/metrics"])
def test_every_answer_carries_a_request_id(client: httpx.Client, page: str) -> None:
    assert client.get(page, headers={"X-Request-Id": "mine"}).headers.get("X-Request-Id") == "mine"


def test_unknown_model_names_do_not_become_metric_labels(client: httpx.Client) -> None:
    client.post("/v1/models/made-up-name/predict", content=b"x")
    assert "made-up-name" not in client.get("/metrics").text


def test_an_answer_names_its_model_as_the_description_does(client: httpx.Client) -> None:
    response = client.post(CLOTHING, content=pictures.jpeg(), params=PATIENT)
    digest = client.get("/v1/models/clothing").json()["digest"]
    assert response.headers["TTA-Model-Digest"] == digest
    assert digest.startswith("sha256:")
    assert client.get("/v1/models/cifar10").json()["digest"] != digest


def test_server_timing_agrees_with_the_receipt(client: httpx.Client) -> None:
    response = client.post(CLOTHING, content=pictures.jpeg(), params=PATIENT)
    timing = dict(re.findall(r"(\w+);dur=([\d.e-]+)", response.headers["Server-Timing"]))
    receipt = response.json()["receipt"]
    assert {stage: float(ms) for stage, ms in timing.items()} == {
        **receipt["stages_ms"],
        "total": receipt["elapsed_ms"],
    }


@pytest.mark.parametrize("path", [CLOTHING, "/v1/models/none/predict"])
@pytest.mark.parametrize("given", ["a", "trace-7:span.2_x", "x" * 64])
def test_a_valid_request_id_is_echoed(client: httpx.Client, given: str, path: str) -> None:
    response = client.post(path, content=pictures.png(), headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "semi;colon", 'quote"', "<b>"])
def test_any_other_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    response = client.post(CLOTHING, content=pictures.png(), headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])


def test_each_request_leaves_one_line_of_json_with_its_id(server: Server, client: httpx.Client) -> None:
    client.post(CLOTHING, content=pictures.png(), headers={"X-Request-Id": "logged-1"})
    client.post(CLOTHING, content=b"no image", headers={"X-Request-Id": "logged-2"})
    server.wait_for("logged-1", "stdout")
    server.wait_for("logged-2", "stdout")
    entries = [json.loads(line) for line in server.lines["stdout"] if "logged-" in line]
    assert [(e["request_id"], e["event"]) for e in entries] == [("logged-1", "answer"), ("logged-2", "error")]
    assert entries[0]["model"] == "clothing"
    assert entries[1]["status"] == 415
