"""The other pages of the HTTP interface, and a server's lifetime."""

import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import pictures, references
from tests.support.gated import GatedServer
from tests.support.references import MODELS
from tests.support.serving import DEFAULT_MS, PATIENCE, Server, models_folder, until
from tests.support.toys import trap_image, trap_model

CLOTHING = "/v1/models/clothing/predict"
NUCLEI = "/v1/models/nuclei/predict"
PATIENT = {"budget_ms": "10000", "min_views": "all"}
KEYS = ["budget_ms", "priority", "policy", "max_views", "min_views", "merge", "stop", "top_k", "include"]
POLICY = ["plain", "hflip", "shift [6,0]", "shift [-6,0]", "shift [0,6]", "shift [0,-6]"]
POLICY += ["hflip+shift [6,0]", "hflip+shift [-6,0]"]


def predict(client: httpx.Client, image: bytes, path: str = CLOTHING, **query: str) -> dict[str, Any]:
    response = client.post(path, content=image, params={**PATIENT, **query})
    assert response.status_code == 200, response.text
    payload: dict[str, Any] = response.json()
    return payload


def counted(client: httpx.Client, sample: str, **labels: str) -> float:
    """The value of one sample of /metrics, 0 without one."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (s for family in families for s in family.samples)
    return next((s.value for s in samples if s.name == sample and s.labels.items() >= labels.items()), 0.0)


# ---- other pages ----


def test_models_are_listed(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["models"]
    assert {m["name"]: m["task"] for m in models} == {
        "bloodcells": "detection",
        "cifar10": "classification",
        "clothing": "classification",
        "mouse": "keypoints",
        "nuclei": "segmentation",
        "nuclei-count": "regression",
    }
    assert all(set(m) == {"name", "version", "task", "description", "state", "reason"} for m in models)
    assert {(m["state"], m["reason"]) for m in models} == {("ready", "")}


def test_a_model_is_described_whole(client: httpx.Client) -> None:
    payload = client.get("/v1/models/clothing").json()
    assert payload["labels"] == list(references.CLOTHING)
    assert payload["policy"]["views"] == POLICY
    assert payload["symmetries"] == ["hflip"]
    assert payload["budget"]["default_ms"] == DEFAULT_MS
    assert payload["input"]["size"] == [128, 128]


def test_policies_list_presets_and_primitives(client: httpx.Client) -> None:
    payload = client.get("/v1/policies").json()
    presets = {preset["name"]: preset["views"] for preset in payload["presets"]}
    assert presets["hflip"] == ["plain", "hflip"]
    assert len(presets["d4"]) == 8
    assert len(presets["ten_crop"]) == 10
    assert {"hflip", "rotate", "zoom", "brightness"} <= set(payload["primitives"])
    assert "reflect101" in payload["borders"]


def test_health_paths_answer(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_openapi_lists_predict_with_every_key(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    predict = schema["paths"]["/v1/models/{name}/predict"]["post"]
    assert [p["name"] for p in predict["parameters"] if p["in"] == "query"] == KEYS
    assert {"200", "400", "404", "413", "415", "429", "502", "503", "504"} <= set(predict["responses"])
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert {"/v1/models", "/v1/models/{name}", "/v1/policies", "/livez", "/readyz", "/metrics"} <= set(schema["paths"])


def test_the_docs_answer_and_the_root_leads_to_them(client: httpx.Client) -> None:
    assert "openapi.json" in client.get("/docs").text
    assert client.get("/", follow_redirects=True).url.path == "/docs"


def test_metrics_parse_and_count(client: httpx.Client) -> None:
    def counts() -> list[float]:
        return [
            counted(client, "tta_answers_total", model="cifar10", stop_reason="all_views"),
            counted(client, "tta_views_sum", model="cifar10"),
            counted(client, "tta_errors_total", model="cifar10", code="unsupported_media"),
        ]

    before = counts()
    for seed in range(3):
        predict(client, pictures.png(32, 32, seed), "/v1/models/cifar10/predict")
    client.post("/v1/models/cifar10/predict", content=b"no image")
    assert np.subtract(counts(), before).tolist() == [3, 18, 1]
    assert counted(client, "tta_jobs") == 0


# ---- lifetime ----


def test_a_disconnected_client_frees_its_slot(tmp_path: Path) -> None:
    """A client closes its connection while its image waits at a gate."""
    trap_model(tmp_path / "toy")
    image = pictures.encoded(trap_image())
    with GatedServer(tmp_path, slots=1) as server, server.client() as watcher:
        server.close_gate()
        hasty = HTTPConnection(server.url.removeprefix("http://"))
        hasty.request("POST", "/v1/models/toy/predict?budget_ms=10000", image)
        until(lambda: counted(watcher, "tta_jobs") == 1)
        hasty.close()
        until(lambda: counted(watcher, "tta_errors_total", model="toy", code="cancelled") == 1)
        server.open_gate()
        until(lambda: counted(watcher, "tta_jobs") == 0)


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_requests_and_exits_with_0(tmp_path: Path, number: signal.Signals) -> None:
    """Three images wait in the model until the signal has been sent."""
    trap_model(tmp_path / "toy")
    query = {"budget_ms": "10000", "min_views": "all"}
    with GatedServer(tmp_path, slots=1) as server:
        url = server.url
        server.close_gate()

        def predict(_: int) -> httpx.Response:
            image = pictures.encoded(trap_image())
            return httpx.post(f"{url}/v1/models/toy/predict", content=image, params=query, timeout=PATIENCE)

        with ThreadPoolExecutor(3) as clients, httpx.Client(base_url=url, timeout=PATIENCE) as watcher:
            under_way = [clients.submit(predict, index) for index in range(3)]
            until(lambda: counted(watcher, "tta_jobs") == 3)
            server.send_signal(number)
            server.open_gate()
            responses = [future.result() for future in under_way]
        assert server.exit_status() == 0
        assert "Traceback" not in "".join(server.lines["stderr"])
    assert [response.status_code for response in responses] == [200] * 3
    assert [len(response.json()["receipt"]["views"]) for response in responses] == [2] * 3


@pytest.mark.timing
@pytest.mark.slow
def test_a_signal_while_warming_exits_with_0(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = models_folder(tmp_path, "cifar10")
    with Server("--port", str(port), "--models", str(folder)) as server:
        transport = httpx.HTTPTransport(retries=10)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60) as client:
            assert client.get("/livez").status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.exit_status() == 0


def in_time(response: httpx.Response) -> httpx.Response | None:
    """None where a busy machine has not kept the budget, or known that it would not."""
    return None if response.status_code in (429, 504) else response


def test_every_example_of_the_docs_runs(client: httpx.Client) -> None:
    predict = client.get("/openapi.json").json()["paths"]["/v1/models/{name}/predict"]["post"]
    (name,) = (p["example"] for p in predict["parameters"] if p["in"] == "path")
    shown = [(p["name"], value) for p in predict["parameters"] for value in p["schema"].get("examples", [])]
    assert {key for key, _ in shown} >= {"budget_ms", "policy", "include"}
    path = f"/v1/models/{name}/predict"
    for key, value in shown:
        wanted = {"budget_ms": "10000", key: value}
        response = until(lambda wanted=wanted: in_time(client.post(path, content=pictures.png(), params=wanted)))
        assert response.status_code == 200, (key, value, response.text)


def test_the_docs_page_loads_nothing_from_other_hosts(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    for asset in assets:
        assert client.get(asset).status_code == 200, asset


def test_a_wrong_method_gets_an_allow_header(client: httpx.Client) -> None:
    assert client.get(CLOTHING).headers["Allow"] == "POST"


def test_a_signal_while_models_are_warmed_ends_quietly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def alive() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        except httpx.ConnectError:
            return False

    with Server("--port", str(port), "--models", str(MODELS)) as server:
        until(alive)
        server.send_signal(signal.SIGINT)
        assert server.exit_status() == 0
        output = "".join(server.lines["stderr"])
    assert "ready" not in output
    assert "Traceback" not in output
