"""What all tests share: the profiles of random tests, and one server with the bundled models."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.examples import register_profiles
from tests.support.references import MODELS
from tests.support.serving import Server

register_profiles()

MAX_BYTES = 2_000_000


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """All bundled models on two slots; images of up to MAX_BYTES."""
    with Server("--port", "0", "--slots", "2", "--models", str(MODELS), "--max-bytes", str(MAX_BYTES)) as running:
        assert running.url
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http
