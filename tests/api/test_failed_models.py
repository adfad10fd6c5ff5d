"""A folder with models that can't be served: the others serve, and every protocol says which don't and why."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.folders import FAILED, GARBAGE, GOOD, NO_YAML, REASONS, mend, write_folder
from tests.support.serving import Server
from tests.support.toys import metric
from tests.support.triton import CLIENTS, Triton

pytestmark = pytest.mark.timing

IMAGE = pictures.png(16, 16)
STATUS = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("some") / "models", GOOD, *FAILED)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Iterator[Server]:
    """Serves `good`; the other models of the folder failed."""
    with Server("--port", "0", "--slots", "1", "--models", str(folder)) as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


def health_of(server: Server, service: str) -> int:
    with grpc.insecure_channel(server.grpc) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request).status)


# ---- HTTP ----


def test_the_server_is_ready_and_lists_what_it_does_not_serve(mixed: Server) -> None:
    with mixed.client() as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        found = {entry["name"]: entry["reason"] for entry in ready.json()["not_ready"]}
    assert list(found) == list(FAILED)
    for name, reason in found.items():
        assert reason.startswith(f"model {name} failed to load: {REASONS[name]}")


def test_the_listing_and_the_description_say_failed_and_why(mixed: Server) -> None:
    with mixed.client() as client:
        listed = by_name(client.get("/v1/models").json()["models"])
        assert list(listed) == [GOOD, *FAILED]
        assert (listed[GOOD]["state"], listed[GOOD]["reason"]) == ("ready", "")
        for name in FAILED:
            assert listed[name]["state"] == "failed"
            assert listed[name]["reason"].startswith(REASONS[name])
            assert client.get(f"/v1/models/{name}").json() == listed[name]
        good = client.get(f"/v1/models/{GOOD}").json()
        assert (good["state"], good["task"]) == ("ready", "classification")


@pytest.mark.parametrize("name", FAILED)
def test_requests_for_a_failed_model_are_not_ready_and_for_the_others_answered(mixed: Server, name: str) -> None:
    with mixed.client() as client:
        sample = f'tta_errors_total{{code="not_ready",model="{name}"}}'
        before = metric(client, sample)
        responses = [
            client.post(f"/v1/models/{name}/predict", content=IMAGE),
            client.get(f"/v1/models/{name}/quote?width=8&height=8"),
            client.get(f"/v2/models/{name}"),
            client.get(f"/v2/models/{name}/ready"),
            client.get(f"/v2/models/{name}/versions/1/ready"),
            client.get(f"/v2/models/{name}/config"),
            client.get(f"/v2/models/{name}/stats"),
            client.post(f"/v2/models/{name}/infer", json={"inputs": []}),
        ]
        for response in responses:
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            assert response.json()["error"].startswith(f"model {name} failed to load: {REASONS[name]}")
        assert metric(client, sample) - before == len(responses)
        assert client.post(f"/v1/models/{GOOD}/predict", content=IMAGE).status_code == 200
        assert client.get(f"/v2/models/{GOOD}/ready").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post("/v1/models/nothing/predict", content=IMAGE).status_code == 404


def test_failed_models_are_measured_as_not_ready(mixed: Server) -> None:
    with mixed.client() as client:
        samples = [line for line in client.get("/metrics").text.splitlines() if line.startswith("tta_model_ready{")]
    assert sorted(samples) == [
        'tta_model_ready{model="garbage"} 0.0',
        'tta_model_ready{model="good"} 1.0',
        'tta_model_ready{model="no-run"} 0.0',
        'tta_model_ready{model="no-yaml"} 0.0',
    ]


def test_no_client_reads_a_path_of_the_server(mixed: Server, folder: Path) -> None:
    paths = ["/readyz", "/v1/models", "/metrics", *(f"/v1/models/{name}" for name in FAILED)]
    with mixed.client() as client:
        texts = [client.get(path).text for path in paths]
        texts += [client.post(f"/v1/models/{name}/predict", content=IMAGE).text for name in FAILED]
        texts += [client.post("/v2/repository/index").text]
    for text in texts:
        assert str(folder) not in text
        assert str(folder.parent) not in text
        assert "ONNXRuntimeError" not in text


# ---- Open Inference Protocol ----


@pytest.mark.parametrize("kind", CLIENTS)
def test_clients_of_the_protocol_find_the_failed_models_not_ready(mixed: Server, folder: Path, kind: str) -> None:
    triton = Triton(kind, mixed)
    assert triton.call("is_server_ready") is True
    assert {name: triton.call("is_model_ready", name) for name in (GOOD, *FAILED)} == {
        name: name == GOOD for name in (GOOD, *FAILED)
    }
    found = triton.call_json("get_model_repository_index")
    index = by_name(found if triton.is_http else found["models"])
    assert (index[GOOD]["state"], index[GOOD].get("reason", "")) == ("READY", "")
    for name in FAILED:
        assert index[name]["state"] == "UNAVAILABLE"
        assert index[name]["reason"].startswith(f"failed to load: {REASONS[name]}")
        with pytest.raises(InferenceServerException) as caught:
            triton.infer(name, triton.images(IMAGE))
        assert caught.value.status() == ("503" if triton.is_http else "StatusCode.UNAVAILABLE")
        assert f"model {name} failed to load: {REASONS[name]}" in caught.value.message()
        assert str(folder) not in caught.value.message()
    assert triton.infer(GOOD, triton.images(IMAGE)).views == 1


def test_grpc_health_of_each_model(mixed: Server) -> None:
    assert {name: health_of(mixed, name) for name in ("", GOOD, *FAILED)} == {
        "": STATUS.SERVING,
        GOOD: STATUS.SERVING,
        **dict.fromkeys(FAILED, STATUS.NOT_SERVING),
    }


# ---- the terminal ----


def test_the_terminal_has_a_line_for_each_and_counts_them_at_the_end(mixed: Server, folder: Path) -> None:
    lines = [line.rstrip() for line in mixed.lines["stderr"]]
    yaml = folder / NO_YAML / "tta.yaml"
    assert f"error: model {NO_YAML} failed to load: {yaml}: is not valid YAML in line 2, column 1" in lines
    for name in FAILED:
        assert sum(line.startswith(f"error: model {name} failed to load: ") for line in lines) == 1
    (ready,) = [line for line in lines if line.startswith("ready: ")]
    assert f" serve {GOOD} ({', '.join(FAILED)} failed, see above) " in ready


# ---- loading it again ----


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_mended_model_is_ready_once_it_is_loaded(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "models", GOOD, NO_YAML, GARBAGE)
    arguments = ("--port", "0", "--slots", "1", "--models", str(folder), "--model-control")
    with Server(*arguments) as server, server.client() as client, grpc.insecure_channel(server.grpc) as channel:
        triton = Triton(kind, server)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NO_YAML))
        assert next(watch).status == STATUS.NOT_SERVING
        (folder / NO_YAML / "tta.yaml").write_text("hello\n")
        with pytest.raises(InferenceServerException) as caught:
            triton.call("load_model", NO_YAML)
        assert "the file holds 'hello'" in caught.value.message()
        assert "the file holds 'hello'" in client.get(f"/v1/models/{NO_YAML}").json()["reason"], "the newest reason"
        mend(folder, NO_YAML)
        triton.call("load_model", NO_YAML)
        assert next(watch).status == STATUS.SERVING
        watch.cancel()
        assert triton.call("is_model_ready", NO_YAML) is True
        assert triton.infer(NO_YAML, triton.images(IMAGE)).views == 1
        assert client.get(f"/v1/models/{NO_YAML}").json()["state"] == "ready"
        assert metric(client, f'tta_model_ready{{model="{NO_YAML}"}}') == 1
        assert [entry["name"] for entry in client.get("/readyz").json()["not_ready"]] == [GARBAGE]
        triton.call("unload_model", GARBAGE)
        assert client.get("/readyz").json()["not_ready"] == []
        assert client.get(f"/v1/models/{GARBAGE}").status_code == 404


def test_without_a_model_that_serves_the_server_is_not_ready(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "models", GOOD, NO_YAML)
    arguments = ("--port", "0", "--slots", "1", "--models", str(folder), "--model-control")
    with Server(*arguments) as server, server.client() as client:
        assert client.post(f"/v2/repository/models/{GOOD}/unload").status_code == 200
        refused = client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert refused.json()["error"] == f"model {NO_YAML} failed to load: {REASONS[NO_YAML]}"
        assert health_of(server, "") == STATUS.NOT_SERVING
        assert client.post(f"/v2/repository/models/{GOOD}/load").status_code == 200
        assert client.get("/readyz").status_code == 200
        log = [json.loads(line) for line in server.lines["stdout"] if '"/readyz"' in line]
        assert {entry["code"] for entry in log} == {"not_ready"}
