"""The scripts that the chart runs in its pods: `helm test` against a real server, and what fetches an archive."""

import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import make_certificate
from tests.support.charts import CHART
from tests.support.references import MODELS
from tests.support.serving import PATIENCE, Server, models_folder

pytestmark = pytest.mark.deploy
Done = subprocess.CompletedProcess[str]
KEY = "a-key-of-the-chart"


def script(name: str, *arguments: str | Path) -> Done:
    """A script by a Python that sees its site packages alone, as in the pod."""
    command = [sys.executable, "-I", CHART / "files" / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


# ---- helm test ----


@pytest.mark.parametrize("model", ["clothing", "nuclei", "bloodcells", "mouse", "nuclei-count"])
def test_a_server_is_asked_over_http_and_grpc(server: Server, model: str) -> None:
    done = script("test_infer.py", server.url, server.grpc, "--model", model)
    assert done.returncode == 0, done.stderr
    over_http, over_grpc = done.stdout.splitlines()
    assert over_http.startswith(f"HTTP: {model} (")
    assert over_grpc.startswith(f"gRPC: {model}: ")


def test_the_first_model_that_is_ready_is_asked(server: Server) -> None:
    done = script("test_infer.py", server.url, server.grpc)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP: bloodcells (detection): ")


def test_an_unknown_model_fails_with_those_that_there_are(server: Server) -> None:
    done = script("test_infer.py", server.url, server.grpc, "--model", "cats")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no model cats is ready; models: bloodcells (ready), ")


def test_a_server_that_is_not_there_fails(server: Server) -> None:
    done = script("test_infer.py", "http://127.0.0.1:9", server.grpc)
    assert done.returncode == 1
    assert done.stderr.startswith("error: http://127.0.0.1:9 can't be reached: ")
    done = script("test_infer.py", server.url, "127.0.0.1:9", "--model", "cifar10")
    assert done.returncode == 1
    assert "error: gRPC at 127.0.0.1:9 fails: " in done.stderr


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Secrets as files: keys, one key, and a certificate."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "keys").write_text(f"# of the test\n{KEY}\n")
    (folder / "key").write_text(KEY)
    make_certificate(folder / "tls.crt", folder / "tls.key")
    return folder


@pytest.fixture(scope="module")
def secure(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys and TLS, by the names of the chart's variables."""
    models = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    env = {
        "TTA_KEYS": str(secrets / "keys"),
        "TTA_TLS_CERT": str(secrets / "tls.crt"),
        "TTA_TLS_KEY": str(secrets / "tls.key"),
    }
    with Server("--port", "0", "--models", str(models), env=env) as running:
        yield running


def test_keys_and_tls_are_used(secure: Server, secrets: Path) -> None:
    url = secure.wait_for(r"ready: (https://\S+)").group(1)
    right = (url, secure.grpc, "--tls-folder", secrets)
    done = script("test_infer.py", *right, "--key-file", secrets / "key")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP: cifar10 (classification): ")
    done = script("test_infer.py", *right)
    assert done.returncode == 1
    assert done.stderr.startswith("error: /v1/models has status 401: ")


# ---- models of an archive ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where models are unpacked, with what an interrupted run left."""
    (tmp_path / "models" / "old").mkdir(parents=True)
    (tmp_path / "models" / "rest").write_bytes(b"")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which its files are served."""
    files = tmp_path_factory.mktemp("site")
    handler = functools.partial(QuietHandler, directory=str(files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield files, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def archive(path: Path, files: dict[str, bytes]) -> str:
    """Writes a tar archive; returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["", "./", "release-3/vision/"])
def test_an_archive_is_unpacked_at_any_depth(site: tuple[Path, str], folder: Path, prefix: str) -> None:
    files, url = site
    one = MODELS / "cifar10"
    digest = archive(
        files / "m.tar.gz",
        {
            f"{prefix}cifar10/tta.yaml": (one / "tta.yaml").read_bytes(),
            f"{prefix}cifar10/1/model.onnx": (one / "1" / "model.onnx").read_bytes(),
            f"{prefix}embedded/1/model.onnx": b"described by its metadata",
        },
    )
    for _ in range(2):  # a container that starts again
        done = script("fetch.py", f"{url}/m.tar.gz", folder, "--sha256", digest.upper())
        assert (done.returncode, done.stdout) == (0, "fetched cifar10, embedded\n"), done.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["cifar10", "embedded"]
    assert (folder / "cifar10" / "1" / "model.onnx").read_bytes() == (one / "1" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"readme.txt": b"no model"}, "the archive holds no model: NAME/tta.yaml and NAME/1/model.onnx"),
        ({"a/m/tta.yaml": b"", "b/m/tta.yaml": b""}, "two models of the archive have the same name"),
        ({"../../m/tta.yaml": b""}, "outside"),
    ],
)
def test_another_archive_is_refused(
    site: tuple[Path, str], folder: Path, files: dict[str, bytes], sentence: str
) -> None:
    archive(site[0] / "wrong.tar.gz", files)
    done = script("fetch.py", f"{site[1]}/wrong.tar.gz", folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {site[1]}/wrong.tar.gz: ")
    assert sentence in done.stderr
    assert not list(folder.iterdir())


def test_another_digest_and_an_absent_file_are_refused(site: tuple[Path, str], folder: Path) -> None:
    digest = archive(site[0] / "m.tar.gz", {"m/tta.yaml": b""})
    done = script("fetch.py", f"{site[1]}/m.tar.gz", folder, "--sha256", "0" * 64)
    assert done.returncode == 1
    assert f"its SHA-256 is {digest}, not {'0' * 64}: nothing is unpacked" in done.stderr
    assert not list(folder.iterdir())
    done = script("fetch.py", f"{site[1]}/absent.tar.gz", folder)
    assert done.returncode == 1
    assert "404" in done.stderr
    (site[0] / "text.tar.gz").write_text("no archive")
    done = script("fetch.py", f"{site[1]}/text.tar.gz", folder)
    assert done.returncode == 1
    assert "file could not be opened successfully" in done.stderr
