"""`--cache-mb`: equal requests of one key get one answer over every protocol, counted as Triton counts it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from tests.support import pictures
from tests.support.events import listen
from tests.support.serving import PATIENCE, Server
from tests.support.toys import metric
from tests.support.triton import ALL_VIEWS, BUDGET_SECONDS, CLIENTS, Triton

ALICE, BOB = (f"{name}-0123456789abcdef" for name in ("alice", "bob"))
QUERY = {"stop": "all", "min_views": "all", "budget_ms": "10000"}
SEEDS = iter(range(10_000))


@pytest.fixture
def image() -> bytes:
    """One that no other test sends."""
    return pictures.jpeg(90, 70, seed=next(SEEDS))


def some(bundled: Path, folder: Path, *names: str) -> str:
    """A folder of these models, with a budget that a busy machine keeps."""
    for name in names:
        (folder / name).symlink_to(bundled / name)
    return str(folder)


@pytest.fixture(scope="module")
def caching(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = some(bundled, tmp_path_factory.mktemp("caching"), "cifar10", "mouse", "nuclei")
    arguments = ("--port", "0", "--slots", "2", "--models", models, "--no-api-bound", "--model-control")
    with Server(*arguments, "--cache-mb", "20") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture
def client(caching: Server) -> Iterator[httpx.Client]:
    with caching.client() as http:
        yield http


@pytest.fixture(params=CLIENTS)
def triton(request: pytest.FixtureRequest, caching: Server) -> Triton:
    return Triton(request.param, caching)


def ask(client: httpx.Client, image: bytes, model: str = "cifar10", **options: Any) -> httpx.Response:
    response = client.post(f"/v1/models/{model}/predict", content=image, params=QUERY, **options)
    assert response.status_code == 200, response.text
    return response


def counts(client: httpx.Client, model: str = "cifar10") -> dict[str, int]:
    (found,) = client.get(f"/v2/models/{model}/stats").json()["model_stats"]
    stages = {name: duration["count"] for name, duration in found["inference_stats"].items()}
    return {"views": found["inference_count"], **stages}


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {key: after[key] - before[key] for key in after if after[key] != before[key]}


# ---- one client after the other ----


def test_the_second_answer_is_the_first_with_its_own_receipt(client: httpx.Client, image: bytes) -> None:
    before = counts(client)
    first, second = ask(client, image).json(), ask(client, image, headers={"X-Request-Id": "mine"}).json()
    assert second["prediction"] == first["prediction"]
    changed = {"request_id", "elapsed_ms", "stages_ms", "cached"}
    receipts = [{key: part for key, part in each["receipt"].items() if key not in changed} for each in (first, second)]
    assert receipts[0] == receipts[1]
    assert "cached" not in first["receipt"]
    assert second["receipt"]["cached"] is True
    assert second["receipt"]["request_id"] == "mine"
    assert set(second["receipt"]["stages_ms"].values()) == {0}
    run = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 1)
    views = len(first["receipt"]["views"])
    assert grown(before, counts(client)) == {"views": views, "success": 2, "cache_hit": 1, "cache_miss": 1, **run}


def test_the_log_says_that_an_answer_was_cached(caching: Server, client: httpx.Client, image: bytes) -> None:
    for name in ("logged-1", "logged-2"):
        ask(client, image, headers={"X-Request-Id": name})
    assert '"cached": true' in caching.wait_for('"request_id": "logged-2"', "stdout").string
    assert '"cached"' not in caching.wait_for('"request_id": "logged-1"', "stdout").string


def test_a_picture_is_stored(client: httpx.Client, image: bytes) -> None:
    first, second = (ask(client, image, "nuclei", headers={"Accept": "image/png"}) for _ in range(2))
    assert second.content == first.content
    assert ("TTA-Cached" in first.headers, second.headers["TTA-Cached"]) == (False, "true")
    assert "cached" not in ask(client, image, "nuclei").json()["receipt"]


def test_a_stream_of_a_stored_answer_is_its_last_event(client: httpx.Client, image: bytes) -> None:
    first, second = listen(client, "cifar10", image, **QUERY), listen(client, "cifar10", image, **QUERY)
    assert [event.name for event in second] == ["answer"]
    assert second[0].data["prediction"] == first[-1].data["prediction"]
    assert second[0].data["receipt"]["cached"] is True


def test_every_client_gets_stored_tensors(client: httpx.Client, triton: Triton, image: bytes) -> None:
    first, second = (triton.infer("cifar10", triton.images(image)) for _ in range(2))
    assert "tta_cached" not in first.parameters
    assert second.parameters["tta_cached"] is True
    assert second.parameters["tta_views"] == first.parameters["tta_views"]
    for name in ("PROBABILITIES", "LABEL", "INDEX"):
        assert np.array_equal(first[name], second[name])


def test_a_request_may_hold_stored_and_new_images(client: httpx.Client, triton: Triton, image: bytes) -> None:
    other = pictures.jpeg(90, 70, seed=next(SEEDS))
    one = triton.infer("cifar10", triton.images(image))
    before = counts(client)
    both = triton.infer("cifar10", triton.images(image, other, other))
    more = grown(before, counts(client))
    assert (more["success"], more["cache_hit"], more["cache_miss"], more["views"]) == (1, 2, 1, both.views)
    assert "tta_cached" not in both.parameters
    assert np.array_equal(both["PROBABILITIES"][0], one["PROBABILITIES"][0])
    assert np.array_equal(both["PROBABILITIES"][1], both["PROBABILITIES"][2])
    assert not np.array_equal(both["PROBABILITIES"][0], both["PROBABILITIES"][1])


def test_pixels_are_stored_and_are_not_files(client: httpx.Client, triton: Triton) -> None:
    pixels = pictures.pixels(32, 32, seed=next(SEEDS))[None]
    before = counts(client)
    first, second = (triton.infer("cifar10", triton.pixels(pixels)) for _ in range(2))
    assert np.array_equal(first["PROBABILITIES"], second["PROBABILITIES"])
    assert grown(before, counts(client))["cache_hit"] == 1


def test_images_of_two_sizes_stay_refused_where_maps_are_stored(triton: Triton) -> None:
    small, large = (pictures.png(side, side, seed=next(SEEDS)) for side in (64, 96))
    for image in (small, large):
        triton.infer("nuclei", triton.images(image), ["MASK"])
    assert "must have one size" in triton.refusal("nuclei", triton.images(small, large), ["MASK"])


def test_a_grpc_stream_of_a_stored_answer_is_one_response(caching: Server, client: httpx.Client) -> None:
    triton = Triton("grpc", caching)
    image = triton.images(pictures.jpeg(90, 70, seed=next(SEEDS)))
    triton.infer("cifar10", image)
    answers: SimpleQueue[Any] = SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(caching.grpc) as stream:
        stream.start_stream(lambda result, error: answers.put((result, error)))
        timeout = BUDGET_SECONDS * 1_000_000
        stream.async_stream_infer("cifar10", [image], timeout=timeout, parameters=ALL_VIEWS)
        result, error = answers.get(timeout=PATIENCE)
        stream.stop_stream()
    assert error is None
    parameters = result.get_response().parameters
    assert parameters["tta_cached"].bool_param
    assert parameters["triton_final_response"].bool_param
    assert answers.empty()


# ---- at once ----


def test_equal_requests_at_once_are_one_run(caching: Server, client: httpx.Client, image: bytes) -> None:
    before = counts(client)

    def predict(number: int) -> dict[str, Any]:
        with caching.client() as own:
            return dict(ask(own, image, headers={"X-Request-Id": f"client-{number}"}).json())

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(predict, range(64)))
    assert [answer["receipt"]["request_id"] for answer in answers] == [f"client-{number}" for number in range(64)]
    assert sum("cached" not in answer["receipt"] for answer in answers) == 1
    assert all(answer["prediction"] == answers[0]["prediction"] for answer in answers)
    more = grown(before, counts(client))
    assert (more["success"], more["cache_hit"], more["cache_miss"]) == (64, 63, 1)
    assert more["views"] == len(answers[0]["receipt"]["views"])


# ---- what is known of it ----


def test_metrics_count_hits_misses_and_bytes(client: httpx.Client, image: bytes) -> None:
    hits, misses = 'tta_cache_hits_total{kind="stored",model="cifar10"}', 'tta_cache_misses_total{model="cifar10"}'
    before = metric(client, hits), metric(client, misses)
    for _ in range(3):
        ask(client, image)
    assert (metric(client, hits) - before[0], metric(client, misses) - before[1]) == (2, 1)
    assert 0 < metric(client, "tta_cache_bytes") <= 20_000_000
    assert metric(client, "tta_cache_evictions_total") == 0


def test_a_models_config_says_that_answers_are_cached(caching: Server, server: Server) -> None:
    for running, enabled in ((caching, True), (server, False)):
        for kind in ("http", "grpc"):
            config = Triton(kind, running).call_json("get_model_config", "cifar10")
            config = config if kind == "http" else config["config"]
            assert config["response_cache"].get("enable", False) is enabled


def test_nothing_is_cached_by_default(server: Server, image: bytes) -> None:
    with server.client() as client:
        before = counts(client)
        assert not any("cached" in ask(client, image).json()["receipt"] for _ in range(2))
        more = grown(before, counts(client))
        assert (more["compute_infer"], "cache_hit" in more, "cache_miss" in more) == (2, False, False)
        assert metric(client, "tta_cache_bytes") == 0


def test_a_reloaded_model_answers_anew(client: httpx.Client, image: bytes) -> None:
    ask(client, image, "mouse")
    assert "cached" in ask(client, image, "mouse").json()["receipt"]
    assert client.post("/v2/repository/models/mouse/load", json={}).status_code == 200
    assert "cached" not in ask(client, image, "mouse").json()["receipt"]
    assert "cached" in ask(client, image, "mouse").json()["receipt"]


# ---- keys ----


@pytest.fixture(scope="module")
def locked(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{ALICE}\n{BOB}\n")
    models = some(bundled, tmp_path_factory.mktemp("locked"), "cifar10")
    arguments = ("--port", "0", "--slots", "2", "--models", models, "--keys", str(keys), "--cache-mb", "20")
    with Server(*arguments) as running:
        assert running.url
        yield running


def test_a_key_gets_no_answer_of_another_key(locked: Server, image: bytes) -> None:
    def is_cached(key: str) -> bool:
        with locked.client(headers={"authorization": f"Bearer {key}"}) as client:
            return "cached" in ask(client, image).json()["receipt"]

    assert [is_cached(key) for key in (ALICE, ALICE, BOB, BOB, ALICE)] == [False, True, False, True, True]


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_nor_over_v2(locked: Server, kind: str, image: bytes) -> None:
    triton = Triton(kind, locked)

    def is_cached(key: str) -> bool:
        tensor = triton.images(image)
        return "tta_cached" in triton.infer("cifar10", tensor, headers={"authorization": f"Bearer {key}"}).parameters

    assert [is_cached(key) for key in (ALICE, ALICE, BOB)] == [False, True, False]


def test_nor_over_a_grpc_stream(locked: Server, image: bytes) -> None:
    tensor = Triton("grpc", locked).images(image)

    def is_cached(key: str) -> bool:
        answers: SimpleQueue[Any] = SimpleQueue()
        with tritonclient.grpc.InferenceServerClient(locked.grpc) as stream:
            headers = {"authorization": f"Bearer {key}"}
            stream.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
            timeout = BUDGET_SECONDS * 1_000_000
            stream.async_stream_infer("cifar10", [tensor], timeout=timeout, parameters=ALL_VIEWS)
            while True:
                result, error = answers.get(timeout=PATIENCE)
                assert error is None
                if (parameters := result.get_response().parameters)["triton_final_response"].bool_param:
                    return "tta_cached" in parameters

    assert [is_cached(key) for key in (ALICE, ALICE, BOB)] == [False, True, False]


def test_a_stored_answer_needs_a_key(locked: Server, image: bytes) -> None:
    with locked.client(headers={"authorization": f"Bearer {ALICE}"}) as client:
        ask(client, image)
    with locked.client() as client:
        assert client.post("/v1/models/cifar10/predict", content=image, params=QUERY).status_code == 401
