"""What the tests with tritonclient share."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.serving import Server
from tests.support.triton import CLIENTS, Triton


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


@pytest.fixture(params=CLIENTS)
def triton(request: pytest.FixtureRequest, server: Server) -> Triton:
    return Triton(request.param, server)


@pytest.fixture(params=["http", "http.aio"])
def web(request: pytest.FixtureRequest, server: Server) -> Triton:
    return Triton(request.param, server)
