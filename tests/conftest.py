"""What all tests share: the profiles of random tests, and one server with the bundled models."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.examples import register_profiles
from tests.support.references import MODELS
from tests.support.serving import DEFAULT_MS, Server

os.environ["COLUMNS"] = "200"  # a console measures its width when it is made; pytest-xdist sets 80
register_profiles()

MAX_BYTES = 2_000_000


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled models with a default budget of DEFAULT_MS."""
    models = tmp_path_factory.mktemp("models")
    for folder in (path for path in MODELS.iterdir() if (path / "tta.yaml").is_file()):
        own = models / folder.name
        own.mkdir()
        for path in folder.iterdir():
            (own / path.name).symlink_to(path)
        text = (folder / "tta.yaml").read_text("utf-8")
        (own / "tta.yaml").unlink()
        (own / "tta.yaml").write_text(re.sub(r"default_ms: \d+", f"default_ms: {DEFAULT_MS}", text), "utf-8")
    return models


@pytest.fixture(scope="session")
def server(bundled: Path) -> Iterator[Server]:
    """All bundled models on two slots; images of up to MAX_BYTES."""
    with Server("--port", "0", "--slots", "2", "--models", str(bundled), "--max-bytes", str(MAX_BYTES)) as running:
        assert running.url
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http
