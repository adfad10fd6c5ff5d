"""`Accept: text/event-stream`: partial answers, then the final one."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support import pictures
from tests.support.events import PATIENT, STREAM, Event, check_order, listen
from tests.support.jobs import SingleJob, run
from tests.support.serving import Server, until
from tests.support.toys import expect_ended_runs, trap_image, trap_model
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.telemetry.prometheus import Metrics

pytestmark = pytest.mark.timing


# ---- events ----


def test_the_last_event_is_the_answer(client: httpx.Client) -> None:
    image = pictures.jpeg(seed=3)
    query = {**PATIENT, "include": "probabilities,views,agreement"}
    *_, last = events = listen(client, "clothing", image, **query)
    check_order(events)
    plain = client.post("/v1/models/clothing/predict", content=image, params=query).json()
    assert list(last.data) == list(plain)
    payload, expected = last.data["prediction"], plain["prediction"]
    np.testing.assert_allclose(payload["probabilities"], expected["probabilities"], atol=1e-6)
    assert [entry["label"] for entry in payload["top"]] == [entry["label"] for entry in expected["top"]]
    assert payload["agreement"] == expected["agreement"]
    assert last.views == [view["name"] for view in plain["receipt"]["views"]]
    assert list(last.data["receipt"]) == list(plain["receipt"])
    for key in ("planned", "merge", "stop", "stop_reason", "budget_ms", "policy"):
        assert last.data["receipt"][key] == plain["receipt"][key]


def test_each_event_is_the_merge_of_its_views(client: httpx.Client) -> None:
    """A partial answer is the answer of a policy of just those views."""
    image = pictures.jpeg(seed=5)

    def several() -> list[Event] | None:
        """A busy machine may have the whole answer before a partial one is written."""
        found = listen(client, "clothing", image, **PATIENT, include="probabilities,views")
        return found if len(found) > 1 else None

    events = until(several)
    seen: dict[str, int] = {view["name"]: view["index"] for view in events[-1].data["receipt"]["views"]}
    for event in events:
        probabilities = np.array(event.data["prediction"]["probabilities"])
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert {view["name"]: view["index"] for view in event.data["receipt"]["views"]}.items() <= seen.items()
    policy = client.get("/v1/models/clothing").json()["policy"]["views"]
    prefixes = [event for event in events if event.views == policy[: len(event.views)]]
    assert prefixes[0].views == ["plain"] or len(prefixes) > 1
    for event in prefixes:
        query = {**PATIENT, "max_views": str(len(event.views)), "include": "probabilities"}
        payload = client.post("/v1/models/clothing/predict", content=image, params=query).json()
        expected = payload["prediction"]["probabilities"]
        np.testing.assert_allclose(event.data["prediction"]["probabilities"], expected, atol=1e-6)


def test_masks_are_streamed_too(client: httpx.Client) -> None:
    """A slow reader may miss a partial answer, but hardly all of them five times."""
    image = pictures.encoded(pictures.nuclei(250, 200))
    streams = [listen(client, "nuclei", image, **PATIENT) for _ in range(5)]
    assert max(map(len, streams)) > 1
    events = max(streams, key=len)
    check_order(events)
    masks = [np.asarray(pictures.opened(base64.b64decode(event.data["prediction"]["mask"]))) for event in events]
    assert {mask.shape for mask in masks} == {(200, 250)}
    payload = client.post("/v1/models/nuclei/predict", content=image, params=PATIENT).json()["prediction"]
    final = np.asarray(pictures.opened(base64.b64decode(payload["mask"])))
    assert np.mean(masks[-1] != final) < 1e-3
    assert events[-1].data["prediction"]["area"].keys() == payload["area"].keys()


def test_one_view_is_one_event(client: httpx.Client) -> None:
    events = listen(client, "clothing", pictures.jpeg(), max_views="1", budget_ms="5000")
    assert [event.name for event in events] == ["answer"]


def test_a_stop_rule_ends_a_stream(client: httpx.Client) -> None:
    events = listen(client, "cifar10", pictures.png(32, 32), stop="certain", budget_ms="5000")
    check_order(events)
    assert events[-1].data["receipt"]["stop_reason"] in ("certain", "all_views")


def test_many_streams_at_once_get_their_own_answers(server: Server, client: httpx.Client) -> None:
    images = [pictures.jpeg(seed=seed) for seed in range(8)]

    def listen_to(image: bytes) -> list[Event]:
        with server.client() as own:
            return listen(own, "clothing", image, **PATIENT, include="probabilities")

    with ThreadPoolExecutor(8) as clients:
        streams = list(clients.map(listen_to, images))
    for image, events in zip(images, streams, strict=True):
        check_order(events)
        query = {**PATIENT, "include": "probabilities"}
        payload = client.post("/v1/models/clothing/predict", content=image, params=query).json()
        expected = payload["prediction"]["probabilities"]
        np.testing.assert_allclose(events[-1].data["prediction"]["probabilities"], expected, atol=1e-5)


# ---- timing and errors ----


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two slots; a model whose mirrored view is slow, fails, or never ends, as the image says."""
    folder = tmp_path_factory.mktemp("models")
    trap_model(folder / "toy")
    with Server("--port", "0", "--slots", "2", "--models", str(folder)) as running:
        yield running


@pytest.fixture
def toy(traps: Server) -> Iterator[httpx.Client]:
    with traps.client() as http:
        yield http


def trap(plain: str | None = None, mirrored: str | None = None) -> bytes:
    return pictures.encoded(trap_image(plain, mirrored))


def test_the_first_event_does_not_wait_for_the_other_views(toy: httpx.Client) -> None:
    """The mirrored view never ends: it is terminated, and left out of the answer."""
    first, last = events = listen(toy, "toy", trap(None, "endless"), budget_ms="8000")
    check_order(events)
    assert (first.views, last.views) == (["plain"], ["plain"])
    assert first.at < last.at
    assert last.at >= 1
    assert last.data["receipt"]["stop_reason"] == "backend_failed"
    assert first.data["prediction"] == last.data["prediction"]


def test_an_error_after_the_first_event_is_an_event(toy: httpx.Client) -> None:
    """Both views are mandatory; the other one is terminated after the event of the plain view."""
    first, last = listen(toy, "toy", trap(None, "endless"), budget_ms="8000", min_views="2")
    assert (first.name, first.views) == ("partial", ["plain"])
    assert last.name == "error"
    assert set(last.data) == {"error", "code"}
    assert last.data["code"] == "backend_failed"
    assert "far too long" in last.data["error"]


def test_a_deadline_after_the_first_event_is_an_event(toy: httpx.Client) -> None:
    with expect_ended_runs(toy, "toy", 1):
        first, last = listen(toy, "toy", trap(None, "endless"), budget_ms="900", min_views="2")
    assert (first.name, last.name) == ("partial", "error")
    assert last.data["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("model", "image", "query", "status", "code"),
    [
        ("toy", trap("fails"), {"max_views": "1"}, 502, "backend_failed"),
        ("toy", trap("nan"), {}, 502, "backend_failed"),
        ("toy", b"", {}, 400, "invalid_input"),
        ("toy", b"no image", {}, 415, "unsupported_media"),
        ("toy", trap()[:45], {}, 400, "invalid_input"),
        ("toy", trap(), {"budget_ms": "0.001"}, 400, "invalid_input"),
        ("toy", trap(), {"merge": "median"}, 400, "invalid_input"),
        ("none", trap(), {}, 404, "unknown_model"),
        ("toy", pictures.png_that_says(46_000, 46_000), {}, 413, "too_large"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_error_before_the_first_event_has_its_own_status(
    toy: httpx.Client, model: str, image: bytes, query: dict[str, str], status: int, code: str
) -> None:
    response = toy.post(f"/v1/models/{model}/predict", content=image, params=query, headers=STREAM)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["code"] == code
    assert set(response.json()) == {"error", "code"}


def test_a_failed_stream_does_not_affect_others_in_its_batch(tmp_path: Path) -> None:
    """The plain view of one gives NaN, and shares a batch with that of another."""
    model = load_model(trap_model(tmp_path / "batch", batch="n"))
    plan = make_plan(model, Options())
    notified: list[int] = []
    jobs = []
    for number, image in enumerate((trap(), trap("nan"))):
        caller = Caller("test", partial(notified.append, number))
        jobs.append(SingleJob(make_job(plan, read_source(image, Limits()), Deadline.after(1000), caller, Metrics())))
        jobs[-1].decode()
    merged, lost = run([(job, 0) for job in jobs])
    assert (merged.lost, lost.lost) == (0, 1)
    assert notified == [0]
    seen, answer = jobs[0].partial(0)
    assert (seen, [view["name"] for view in answer.receipt.views]) == (1, ["plain"])
    assert jobs[0].partial(seen) is None
    assert jobs[1].partial(0) is None


# ---- stop rules ----


def test_certain_is_the_stop_reason_and_keeps_the_label(client: httpx.Client) -> None:
    reasons = set()
    for seed in range(8):
        image = pictures.png(32, 32, seed)
        path, query = "/v1/models/cifar10/predict", {"budget_ms": "10000", "stop": "certain"}
        payload = client.post(path, content=image, params=query).json()
        whole = client.post(path, content=image, params={**query, "stop": "all"}).json()
        receipt = payload["receipt"]
        reasons.add(receipt["stop_reason"])
        assert receipt["stop"] == "certain"
        assert receipt["stop_reason"] in ("certain", "all_views")
        assert len(receipt["views"]) == receipt["planned"] or receipt["stop_reason"] == "certain"
        assert payload["prediction"]["top"][0]["label"] == whole["prediction"]["top"][0]["label"]
        assert whole["receipt"]["stop"] == "all"
    assert "certain" in reasons


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_open_settles_with_at_most_that_share_open(client: httpx.Client, share: float) -> None:
    image = pictures.encoded(pictures.nuclei(128, 128))
    query = {"budget_ms": "20000", "stop": json.dumps({"open": share})}
    receipt = client.post("/v1/models/nuclei/predict", content=image, params=query).json()["receipt"]
    assert receipt["stop"] == {"open": share}
    assert receipt["stop_reason"] == "settled"
    assert 0 <= receipt["open"] <= share
    assert len(receipt["views"]) <= receipt["planned"] == 8


def test_what_did_not_settle_has_no_share(client: httpx.Client) -> None:
    image = pictures.encoded(pictures.nuclei(96, 80))
    receipt = client.post("/v1/models/nuclei/predict", content=image, params=PATIENT).json()["receipt"]
    assert "open" not in receipt


# ---- OpenAPI ----


def test_openapi_names_the_stream(client: httpx.Client) -> None:
    predict = client.get("/openapi.json").json()["paths"]["/v1/models/{name}/predict"]["post"]
    assert "text/event-stream" in predict["responses"]["200"]["content"]
