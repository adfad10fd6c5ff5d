"""`tta-server ping`: asks a real server, in a process of its own."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import make_certificate
from tests.support.commands import Done, check_mistake, run, run_process
from tests.support.serving import Server, models_folder
from tta_server.cli.ping import local_url
from tta_server.errors import ConfigError

NO_SETTINGS = {"TTA_PORT": "", "TTA_HOST": "", "TTA_TLS_CERT": "", "TTA_CONFIG": ""}
HEAVY = ("numpy", "onnxruntime", "cv2", "PIL", "fastapi", "grpc", "pydantic_settings")
IMPORTS = f"""
import sys
from tta_server.cli import entry, ping
sys.argv = ["tta-server", "ping", "--port", "1"]
try:
    entry.main()
except SystemExit as end:
    print(end.code, *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder / "cert.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The port of a server with TLS that lets clients unload its one model."""
    models = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    with Server("--port", "0", "--slots", "1", "--models", str(models), "--no-grpc", *tls) as running:
        yield running.wait_for(r"ready: https://127.0.0.1:(\d+)").group(1)


def ping(*arguments: str, **environment: str) -> Done:
    return run_process("ping", *arguments, env=NO_SETTINGS | environment)


def check(done: Done, status: int, sentence: str) -> None:
    assert (done.returncode, (done.stdout + done.stderr).strip()) == (status, sentence)


def test_a_server_that_serves_is_alive_and_ready(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for done in (ping("--url", server.url), ping("--port", port), ping(TTA_PORT=port, TTA_HOST="0.0.0.0")):
        check(done, 0, f"{server.url} is alive")
    check(ping("--url", f"{server.url}/", "--ready"), 0, f"{server.url}/ is ready")


def test_a_server_without_a_model_is_alive_and_not_ready(tmp_path: Path) -> None:
    models = models_folder(tmp_path, "cifar10")
    with Server("--port", "0", "--slots", "1", "--models", str(models), "--model-control") as server:
        with server.client() as client:
            assert client.post("/v2/repository/models/cifar10/unload").status_code == 200
        check(ping("--url", server.url), 0, f"{server.url} is alive")
        done = ping("--url", server.url, "--ready")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {server.url} is not ready: 503, ")
    assert "no model is loaded" in done.stderr
    assert done.stdout == ""


def test_where_no_server_listens_it_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = str(bound.getsockname()[1])
    check(ping("--port", port), 1, f"error: no server answers at http://127.0.0.1:{port}: Connection refused")


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = ping("--port", str(port), "--timeout", "0.2")
    check(done, 1, f"error: no server answers at http://127.0.0.1:{port}: timed out")


def test_what_speaks_no_http_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "tta_server", "ping", "--port", str(port)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            client, _ = other.accept()
            with client:
                client.recv(1000)
                client.sendall(b"SSH-2.0-nothing\r\n")
            _, said = process.communicate()
    assert process.returncode == 1
    assert said.startswith(f"error: no server answers at http://127.0.0.1:{port}: ")


def test_on_this_host_the_settings_say_that_it_speaks_tls(secure: str, certificate: tuple[Path, Path]) -> None:
    check(ping(TTA_PORT=secure, TTA_TLS_CERT=str(certificate[0])), 0, f"https://127.0.0.1:{secure} is alive")
    assert ping(TTA_PORT=secure).returncode == 1  # it does not speak HTTP without TLS


def test_the_certificate_of_a_url_is_verified(secure: str, certificate: tuple[Path, Path]) -> None:
    url = f"https://127.0.0.1:{secure}"
    done = ping("--url", url)
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    check(ping("--url", url, "--cacert", str(certificate[0])), 0, f"{url} is alive")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[", "http://host:99999"])
def test_what_is_no_url_is_a_mistake(url: str) -> None:
    sentence = check_mistake(run("ping", "--url", url))
    assert sentence == f"error: --url takes http://host:port or https://host:port, not {url!r}"


def test_a_host_that_can_be_no_name_does_not_answer() -> None:
    done = run("ping", "--url", "http://.example")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no server answers at http://.example: ")


def test_a_missing_file_of_an_authority_is_a_mistake(tmp_path: Path) -> None:
    sentence = check_mistake(run("ping", "--url", "https://127.0.0.1:1", "--cacert", str(tmp_path / "none.pem")))
    assert sentence.endswith("none.pem can't be read: No such file or directory")


def test_the_url_of_this_host_is_that_of_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('port = 8123\nhost = "::"\ntls_cert = "cert.pem"\n')
    named = {"TTA_CONFIG": str(config)}
    assert local_url(None, {}) == "http://127.0.0.1:8000"
    assert local_url(None, named) == "https://[::1]:8123"
    assert local_url(None, named | {"TTA_PORT": "9", "TTA_HOST": "10.0.0.7"}) == "https://10.0.0.7:9"
    assert local_url(7, named | {"TTA_PORT": "9", "TTA_HOST": "localhost"}) == "https://localhost:7"


@pytest.mark.parametrize("port", ["0", "eight", "65536", "-1", "²"])
def test_a_port_that_cannot_be_asked_is_a_mistake(port: str) -> None:
    with pytest.raises(ConfigError, match="which can't be asked; give --port or --url"):
        local_url(None, {"TTA_PORT": port})


@pytest.mark.parametrize("text", ["port = ", None])
def test_a_config_that_cannot_be_read_is_a_mistake(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "server.toml"
    if text:
        config.write_text(text)
    assert f"TTA_CONFIG={config} can't be read" in check_mistake(run("ping", env={"TTA_CONFIG": str(config)}))


def test_it_imports_nothing_that_runs_models_or_serves() -> None:
    printed = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1"]


def test_its_help_names_its_options() -> None:
    assert all(option in ping("--help").stdout for option in ("--url", "--port", "--ready", "--cacert", "--timeout"))
