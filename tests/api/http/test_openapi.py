"""The server keeps to /openapi.json: schemathesis sends valid and invalid requests to a real server."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.onnx_models import classifier, write_model
from tests.support.serving import Server
from tests.tasks.test_every_task import FIXED, config

SCHEMATHESIS = Path(sys.executable).parent / "st"
UNFIT = "positive_data_acceptance,ignored_auth"
"""Checks that can't hold: no schema defines what an image is, and keys are optional."""
SETTINGS = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""
"""A busy machine may be too late for a model's default budget."""
DOCUMENTED_5XX = {"502", "503", "504"}


def explore(url: str, folder: Path, *options: str, examples: int) -> None:
    """Send the schema's examples, the edges of every schema, and `examples` random requests for each operation."""
    (folder / "schemathesis.toml").write_text(SETTINGS)
    done = subprocess.run(
        [
            *(str(SCHEMATHESIS), "run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--seed", "1"),
            *("--exclude-checks", UNFIT, "--request-timeout", "30", "--generation-database", "none", *options),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report[-6000:]
    assert "Tested: " in report
    assert "No test cases" not in report


@pytest.mark.slow
@pytest.mark.timing
def test_a_server_keeps_what_its_schema_promises(server: Server, tmp_path: Path) -> None:
    """No undocumented status or content, no 500; for every path, and for undocumented methods."""
    explore(server.url, tmp_path, examples=20)
    with server.client() as client:
        assert client.get("/readyz").status_code == 200


@pytest.mark.slow
@pytest.mark.timing
def test_a_server_with_model_control_keeps_what_its_schema_promises(tmp_path: Path) -> None:
    """Its one model has the name of the schema's examples, and is loaded and unloaded meanwhile."""
    models = tmp_path / "models"
    write_model(models / "clothing", classifier(), config("classification", FIXED, {"kind": "probabilities"}))
    with Server("--port", "0", "--slots", "1", "--models", str(models), "--model-control") as running:
        explore(running.url, tmp_path, "--include-path-regex", "^/v2", examples=10)


def documented(client: httpx.Client) -> dict[str, dict[str, dict[str, object]]]:
    """Path -> method -> operation."""
    paths: dict[str, dict[str, dict[str, object]]] = client.get("/openapi.json").json()["paths"]
    return paths


def test_every_path_that_answers_is_documented(client: httpx.Client) -> None:
    paths = documented(client)
    for method, path in [
        ("post", "/v1/models/{name}/predict"),
        ("get", "/v1/models/{name}/quote"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{name}"),
        ("get", "/v1/policies"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/v2"),
        ("get", "/v2/health/live"),
        ("get", "/v2/health/ready"),
        ("get", "/v2/models/stats"),
        ("post", "/v2/repository/index"),
        ("post", "/v2/repository/models/{name}/load"),
        ("post", "/v2/repository/models/{name}/unload"),
        *(
            ("post" if end == "/infer" else "get", f"/v2/models/{{name}}{version}{end}")
            for version in ("", "/versions/{version}")
            for end in ("", "/ready", "/config", "/stats", "/infer")
        ),
    ]:
        assert method in paths[path], path


def test_only_expected_server_errors_are_documented(client: httpx.Client) -> None:
    for path, operations in documented(client).items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])  # type: ignore[call-overload]
            assert {status for status in statuses if status.startswith("5")} <= DOCUMENTED_5XX, (method, path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/metrics", "text/plain"),
        ("/docs", "text/html"),
        ("/openapi.json", "application/json"),
        ("/v2", "application/json"),
        ("/v2/models/clothing/config", "application/json"),
    ],
)
def test_each_response_has_its_content_type(client: httpx.Client, path: str, kind: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)


def test_the_example_of_an_inference_can_be_sent(client: httpx.Client) -> None:
    """/docs has a button that sends it."""
    infer = documented(client)["/v2/models/{name}/infer"]["post"]
    example = infer["requestBody"]["content"]["application/json"]["example"]  # type: ignore[index]
    response = client.post("/v2/models/clothing/infer", json=example)
    assert response.status_code in (200, 429, 504), response.text
