"""Requests with many views of many tiles are bounded, and parsed and laid out off the event loop."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import pictures
from tests.support.onnx_models import segmenter, write_model
from tests.support.serving import PATIENCE, until
from tta_server.api.requests import RequestHandler
from tta_server.application import Application
from tta_server.cli.server import Server
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

CONFIG = {
    "task": "segmentation",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 8, "max_size": 64, "tile": 48, "overlap": 10},
    "output": {"kind": "probabilities"},
    "policy": "hflip",
    "symmetries": ["hflip"],
    "budget": {"default_ms": 10_000, "max_ms": 60_000},
}
PREDICT, QUOTE = "/v1/models/tiled/predict", "/v1/models/tiled/quote?width=90&height=90"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A ready server in this process, with one slot."""
    folder = write_model(tmp_path / "tiled", segmenter(), CONFIG)
    settings = Settings(models=folder.parent, slots=1, drain_seconds=1.0, grpc_port=0)
    application = Application(settings, [load_model(folder)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Server(application, listener)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        try:
            until(lambda: application.ready or running.failure)
            yield running
        finally:
            running.should_exit = True
            thread.join(PATIENCE)


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    host, port = server.servers[0].sockets[0].getsockname()
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE) as opened:
        yield opened


@pytest.fixture
def handler(server: Server) -> RequestHandler:
    return server._handler


def rotations(views: int, number: int = 0) -> str:
    return json.dumps(["identity", *({"rotate": round(0.1 * i + number / 1000, 3)} for i in range(1, views))])


@contextmanager
def blocked(executor: Executor) -> Iterator[None]:
    """Keep the executor's one thread busy."""
    gate, entered = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        gate.wait(PATIENCE)

    executor.submit(wait)
    assert entered.wait(PATIENCE)
    try:
        yield
    finally:
        gate.set()


def test_too_many_views_times_tiles_are_refused(client: httpx.Client) -> None:
    sentence = (
        "the image is 1000x1000, which tiled looks at in 729 tiles; with 250 views these are 182250 inputs, and at "
        "most 4096 are taken: ask for max_views=5 or less, send a smaller image, or state a larger input.tile in the "
        "model's tta.yaml"
    )
    policy = rotations(250)
    quoted = client.get("/v1/models/tiled/quote", params={"width": 1000, "height": 1000, "policy": policy})
    asked = client.post(PREDICT, params={"policy": policy}, content=pictures.jpeg(1000, 1000))
    for response in (quoted, asked):
        assert response.status_code == 413
        assert response.json() == {"error": sentence, "code": "too_large"}
    few = {"width": 1000, "height": 1000, "policy": policy, "max_views": 5}
    assert client.get("/v1/models/tiled/quote", params=few).json()["planned"] == 5


def test_while_a_list_of_views_is_parsed_other_requests_are_answered(
    client: httpx.Client, handler: RequestHandler
) -> None:
    with ThreadPoolExecutor(1) as clients:
        with blocked(handler.planner):
            slow = clients.submit(client.post, PREDICT, params={"policy": rotations(3)}, content=pictures.jpeg(90, 90))
            assert client.get("/livez").status_code == 200
            assert client.get(QUOTE).status_code == 200
            for image in (pictures.jpeg(90, 90), pictures.png(90, 90)):
                assert client.post(PREDICT, content=image).status_code == 200
                assert client.post(PREDICT, params={"policy": "hflip"}, content=image).status_code == 200
            assert not slow.done()
        assert slow.result(PATIENCE).status_code == 200
    with blocked(handler.planner):  # the policy is cached by now
        known = client.post(PREDICT, params={"policy": rotations(3)}, content=pictures.jpeg(90, 90))
        assert known.status_code == 200


def test_while_quotes_are_made_predictions_are_answered(client: httpx.Client, handler: RequestHandler) -> None:
    with ThreadPoolExecutor(1) as clients:
        with blocked(handler.quotes):
            slow = clients.submit(client.get, QUOTE)
            assert client.get("/livez").status_code == 200
            answer = client.post(PREDICT, params={"policy": rotations(3)}, content=pictures.jpeg(90, 90))
            assert answer.status_code == 200
            assert not slow.done()
        assert slow.result(PATIENCE).status_code == 200


def test_an_error_of_the_planner_thread_is_a_refusal(client: httpx.Client, server: Server) -> None:
    response = client.post(PREDICT, params={"policy": '["identity", "vflip"]'}, content=pictures.jpeg(90, 90))
    assert response.status_code == 400
    assert "vflip" in response.json()["error"]
    assert len(server._application.models["tiled"].cache) < 10
