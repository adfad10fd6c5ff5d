"""Weights beside a model file that change while the server runs: taken over by a load, and not before."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.connection import connected, post
from tests.support.external import PLACES, write_scorer
from tests.support.serving import Server
from tests.support.wording import check_sentence

pytestmark = pytest.mark.timing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models that answer red, one for each place where weights may be."""
    for place in PLACES:
        write_scorer(tmp_path / place, [3, 1, 2], place)
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[Server]:
    with Server("--port", "0", "--slots", "1", "--models", str(folder), "--model-control") as server:
        yield server


@pytest.fixture
def client(running: Server) -> Iterator[httpx.Client]:
    with running.client() as http:
        yield http


def ones() -> bytes:
    image = io.BytesIO()
    Image.fromarray(np.ones((64, 64, 3), np.uint8)).save(image, "PNG")
    return image.getvalue()


def answer(client: httpx.Client, name: str) -> str:
    response = client.post(f"/v1/models/{name}/predict?budget_ms=5000", content=ones())
    assert response.status_code == 200, response.text
    return str(response.json()["prediction"]["top"][0]["label"])


def test_a_load_takes_over_new_weights_and_nothing_else_does(folder: Path, client: httpx.Client) -> None:
    for place in PLACES:
        assert answer(client, place) == "red"
        write_scorer(folder / place, [1, 5, 2], place)
        assert answer(client, place) == "red"
        assert client.post(f"/v2/repository/models/{place}/load").status_code == 200
        assert answer(client, place) == "green"


def test_an_answer_names_the_weights_that_made_it(folder: Path, running: Server, client: httpx.Client) -> None:
    """Not those that were loaded when its request began to arrive."""
    place = PLACES[0]
    before = digest(client, place)
    request = post(f"/v1/models/{place}/predict?budget_ms=5000", ones(), "Expect: 100-continue")
    with connected(running) as connection:
        connection.send(request[: -len(ones())])
        assert connection.reply().status == 100
        write_scorer(folder / place, [1, 5, 2], place)
        assert client.post(f"/v2/repository/models/{place}/load").status_code == 200
        connection.send(ones())
        reply = connection.reply()
    assert json.loads(reply.body)["prediction"]["top"][0]["label"] == "green"
    assert reply.headers["tta-model-digest"] == digest(client, place) != before


def digest(client: httpx.Client, name: str) -> str:
    return str(client.get(f"/v1/models/{name}").json()["digest"])


def test_truncated_weights_are_refused_and_the_loaded_ones_go_on(folder: Path, client: httpx.Client) -> None:
    for place in PLACES:
        (folder / place / "1" / "model.onnx_data").open("wb").close()
        assert answer(client, place) == "red"
        refused = client.post(f"/v2/repository/models/{place}/load")
        assert refused.status_code == 400
        sentence = check_sentence(refused.json()["error"])
        assert "weights are in 'model.onnx_data', which has 0 bytes; the model needs 49152" in sentence
        assert str(folder) not in sentence
        assert answer(client, place) == "red"
