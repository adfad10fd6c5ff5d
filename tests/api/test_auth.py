"""Keys (`--keys`) and TLS (`--tls-cert`, `--tls-key`): the same on both ports."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.certificates import make_certificate
from tests.support.serving import PATIENCE, Server, models_folder, until
from tests.support.triton import CLIENTS, Triton, sample
from tta_server.api.auth import Keys, read_tls
from tta_server.errors import ConfigError

pytestmark = pytest.mark.timing

ALICE, BOB, CAROL = (f"{name}-0123456789abcdef" for name in ("alice", "bob", "carol"))
NEEDED = "this server requires a key; send the header Authorization: Bearer <key>"
UNKNOWN = "unknown key; ask the operator of this server for a valid one"
PREDICT = "/v1/models/cifar10/predict"

Headers = dict[str, str]


def bearer(key: str) -> Headers:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"), "cifar10")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    write(path, f"# known clients\n\n{ALICE}\n  {BOB}  # a friend\n")
    return path


def write(path: Path, text: str) -> None:
    """Replace the file atomically."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@pytest.fixture(scope="module")
def locked(models: Path, file: Path) -> Iterator[Server]:
    arguments = ("--port", "0", "--slots", "2", "--models", str(models), "--keys", str(file), "--model-control")
    with Server(*arguments) as running:
        assert running.url
        yield running
        output = "".join(running.lines["stderr"] + running.lines["stdout"])
        assert "Traceback" not in output
        assert not any(key in output for key in (ALICE, BOB, CAROL, "unknown-key"))


@pytest.fixture(params=CLIENTS)
def triton(request: pytest.FixtureRequest, locked: Server) -> Triton:
    return Triton(request.param, locked)


@pytest.fixture(scope="module")
def client(locked: Server) -> Iterator[httpx.Client]:
    with locked.client() as http:
        yield http


# ---- keys ----

CALLS: dict[str, tuple[Any, ...]] = {
    "get_server_metadata": (),
    "get_model_metadata": ("cifar10",),
    "get_model_config": ("cifar10",),
    "get_inference_statistics": (),
    "get_model_repository_index": (),
    "load_model": ("cifar10",),
    "unload_model": ("nothing",),
    "infer": ("cifar10", None),
}


def call(triton: Triton, method: str, headers: Headers) -> Any:
    arguments = [[triton.images(sample("cifar10"))] if a is None else a for a in CALLS[method]]
    budget = {"timeout": 8_000_000} if method == "infer" else {}
    return triton.call(method, *arguments, headers=headers, **budget)


@pytest.mark.parametrize("method", CALLS)
def test_every_method_needs_a_key(triton: Triton, method: str) -> None:
    headers = {"": NEEDED, f"Basic {ALICE}": NEEDED, ALICE: NEEDED, "Bearer": NEEDED, "Bearer unknown-key": UNKNOWN}
    for header, sentence in headers.items():
        with pytest.raises(InferenceServerException) as caught:
            call(triton, method, {"authorization": header} if header else {})
        assert caught.value.message() == sentence
        assert caught.value.status() == ("401" if triton.is_http else "StatusCode.UNAUTHENTICATED")


@pytest.mark.parametrize("key", [ALICE[:-1], ALICE + "0", ALICE.upper(), "# known clients", "", f"{ALICE} {BOB}", "*"])
def test_a_similar_key_is_refused(triton: Triton, key: str) -> None:
    with pytest.raises(InferenceServerException, match="key"):
        call(triton, "get_server_metadata", bearer(key))


@pytest.mark.parametrize("header", [f"Bearer {ALICE}", f"bearer {BOB}", f"Bearer  {ALICE}"])
def test_a_key_is_accepted(triton: Triton, header: str) -> None:
    for method in CALLS:
        if method != "unload_model":
            call(triton, method, {"authorization": header})
    with pytest.raises(InferenceServerException, match="unknown model 'nothing'"):
        call(triton, "unload_model", {"authorization": header})


PATHS = ["/v1/models", "/v1/models/cifar10", "/v1/policies", "/metrics", "/docs", "/openapi.json", "/v2", "/nowhere"]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models/cifar10/quote", "/livez/", "//livez", "/v2/models/cifar10/ready"])
def test_every_page_needs_a_key(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()) == (401, {"error": NEEDED, "code": "unauthenticated"})
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["X-Request-Id"]
    assert client.get(path, headers=bearer(BOB)).status_code != 401


def test_predict_needs_a_key(client: httpx.Client) -> None:
    image = sample("cifar10")
    assert client.post(PREDICT, content=image).status_code == 401
    assert client.post(PREDICT, content=image, headers=bearer(CAROL)).json()["error"] == UNKNOWN
    assert client.post(PREDICT, content=image, headers=bearer(ALICE)).status_code == 200


def test_a_header_that_is_not_text_is_refused(client: httpx.Client) -> None:
    response = client.get("/v2", headers={b"Authorization": b"Bearer \xff\xfe\xf0" + ALICE.encode()})
    assert (response.status_code, response.json()["error"]) == (401, UNKNOWN)


def test_health_checks_need_no_key(triton: Triton, locked: Server, client: httpx.Client) -> None:
    assert triton.call("is_server_live") is True
    assert triton.call("is_server_ready") is True
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    with grpc.insecure_channel(locked.grpc) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="cifar10"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stream_needs_a_key(locked: Server) -> None:
    request = pb.ModelInferRequest(model_name="nothing")
    with grpc.insecure_channel(locked.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for metadata, sentence in ((None, NEEDED), ([("authorization", "Bearer unknown-key")], UNKNOWN)):
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ModelStreamInfer(iter([request]), metadata=metadata))
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, sentence)
        (answer,) = stub.ModelStreamInfer(iter([request]), metadata=[("authorization", f"Bearer {ALICE}")])
    assert "unknown model" in answer.error_message


def test_a_refusal_is_logged_and_counted(client: httpx.Client, locked: Server) -> None:
    client.get("/v2", headers={"X-Request-Id": "stranger-1", **bearer("an unknown key")})
    line = locked.wait_for('.*"request_id": "stranger-1".*', "stdout").group()
    assert '"code": "unauthenticated"' in line
    payload = client.get("/metrics", headers=bearer(ALICE)).text
    assert 'code="unauthenticated"' in payload


def test_keys_are_reloaded_when_their_file_changes(locked: Server, file: Path) -> None:
    """A file that can't be read leaves the previous keys valid."""
    clients = [Triton("http", locked), Triton("grpc", locked)]

    def knows(key: str) -> list[bool]:
        return [_knows(triton, key) for triton in clients]

    before = file.read_text()
    try:
        assert (knows(ALICE), knows(CAROL)) == ([True, True], [False, False])
        write(file, f"{CAROL}\n")
        until(lambda: knows(CAROL) == [True, True])
        assert knows(ALICE) == [False, False]
        spoiled = (lambda: write(file, ""), lambda: write(file, "short\n"), lambda: file.write_bytes(b"\xff"))
        for spoil in (*spoiled, file.unlink):
            lines = len(locked.lines["stderr"])
            spoil()
            until(lambda: knows(CAROL) and len(locked.lines["stderr"]) > lines)  # noqa: B023 - called at once
            assert "the previous keys stay valid" in locked.lines["stderr"][lines]
            assert (knows(CAROL), knows(ALICE)) == ([True, True], [False, False])
    finally:
        write(file, before)
    until(lambda: knows(ALICE) == [True, True])


def _knows(triton: Triton, key: str) -> bool:
    try:
        call(triton, "get_server_metadata", bearer(key))
    except InferenceServerException as error:
        if error.message() == UNKNOWN:
            return False
        raise
    return True


# ---- errors at start ----


def refusal(*arguments: str) -> str:
    """The error of a server that exits with status 2 at start."""
    with Server("--port", "0", *arguments) as server:
        assert server.exit_status() == 2
        output = "".join(server.lines["stderr"])
    assert "Traceback" not in output
    return " ".join(output.split())


def test_a_missing_key_file_is_refused_at_start(models: Path, tmp_path: Path) -> None:
    error = refusal("--models", str(models), "--keys", str(tmp_path / "keys"))
    assert error.endswith("keys: the key file can't be read: No such file or directory")


def test_an_empty_key_file_is_refused_at_start(models: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    assert refusal("--models", str(models), "--keys", str(tmp_path / "keys")).endswith(
        "the key file holds no key; write one per line"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"# no key\n\n", "the key file holds no key; write one per line"),
        (b"a-key-long-enough-to-be-one\nshort # key\n", "the key in line 2 has fewer than 16 characters"),
        (b"\xff\xfe", "the key file can't be read"),
    ],
    ids=["comments", "short", "no text"],
)
def test_a_key_file_without_valid_keys_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Keys(path)
    assert sentence in str(caught.value)
    assert "short" not in str(caught.value), "an error must not contain keys"


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key"])
def test_tls_needs_both_files(models: Path, certificate: tuple[Path, Path], flag: str) -> None:
    error = refusal("--models", str(models), flag, str(certificate[0]))
    assert error.endswith("error: TLS needs both --tls-cert and --tls-key")


@pytest.mark.parametrize("spoiled", ["missing", "swapped", "no PEM"])
def test_tls_needs_a_certificate_and_its_key(certificate: tuple[Path, Path], tmp_path: Path, spoiled: str) -> None:
    cert, key = certificate
    (tmp_path / "no.pem").write_text("no PEM")
    pairs = {"missing": (cert, tmp_path / "nothing"), "swapped": (key, cert), "no PEM": (tmp_path / "no.pem", key)}
    with pytest.raises(ConfigError) as caught:
        read_tls(*pairs[spoiled])
    assert ("No such file" if spoiled == "missing" else "not a PEM certificate and its key") in str(caught.value)


# ---- TLS ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder / "cert.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def secure(models: Path, file: Path, certificate: tuple[Path, Path]) -> Iterator[Server]:
    cert, key = certificate
    tls = ("--tls-cert", str(cert), "--tls-key", str(key), "--keys", str(file))
    with Server("--port", "0", "--slots", "2", "--models", str(models), *tls) as running:
        running.wait_for("ready: https://")
        yield running


@pytest.fixture(scope="module")
def https(secure: Server) -> str:
    return secure.wait_for(r"ready: (https://\S+)").group(1)


def test_http_speaks_tls(https: str, certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(base_url=https, verify=context, timeout=PATIENCE, headers=bearer(ALICE)) as client:
        assert client.get("/livez").status_code == 200
        answer = client.post(PREDICT, content=pictures.png(), params={"budget_ms": "10000"})
        assert answer.status_code == 200, answer.text


def test_a_client_that_does_not_trust_the_certificate_fails(https: str, secure: Server) -> None:
    with httpx.Client(base_url=https, timeout=PATIENCE) as client, pytest.raises(httpx.ConnectError):
        client.get("/livez")
    with grpc.secure_channel(secure.grpc, grpc.ssl_channel_credentials()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_without_tls_fails(https: str, secure: Server) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(https.replace("https", "http") + "/livez", timeout=PATIENCE)
    with grpc.insecure_channel(secure.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_grpc_speaks_tls(secure: Server, certificate: tuple[Path, Path]) -> None:
    credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    with grpc.secure_channel(secure.grpc, credentials) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        payload = stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=[("authorization", f"Bearer {ALICE}")])
        assert payload.name == "tta-server"
        with pytest.raises(grpc.RpcError) as caught:
            stub.ServerMetadata(pb.ServerMetadataRequest())
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_tritonclient_speaks_tls(secure: Server, https: str, certificate: tuple[Path, Path]) -> None:
    cert = str(certificate[0])
    with tritonclient.grpc.InferenceServerClient(secure.grpc, ssl=True, root_certificates=cert) as client:
        tensor = Triton("grpc", secure).images(sample("cifar10"))
        result = client.infer("cifar10", [tensor], timeout=10_000_000, headers=bearer(BOB))
        assert result.as_numpy("PROBABILITIES").shape == (1, 10)
    options = {"ssl": True, "ssl_context_factory": lambda: ssl.create_default_context(cafile=cert)}
    with tritonclient.http.InferenceServerClient(https.removeprefix("https://"), **options) as client:
        tensor = tritonclient.http.InferInput("PIXELS", [32, 32, 3], "UINT8")
        tensor.set_data_from_numpy(pictures.pixels(32, 32))
        result = client.infer("cifar10", [tensor], timeout=10_000_000, headers=bearer(BOB))
        assert result.as_numpy("PROBABILITIES").shape == (1, 10)
