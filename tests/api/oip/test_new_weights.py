"""Weights beside a model file that change while the server runs: taken over by a load, and not before."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

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
def client(folder: Path) -> Iterator[httpx.Client]:
    with (
        Server("--port", "0", "--slots", "1", "--models", str(folder), "--model-control") as running,
        running.client() as http,
    ):
        yield http


def answer(client: httpx.Client, name: str) -> str:
    image = io.BytesIO()
    Image.fromarray(np.ones((64, 64, 3), np.uint8)).save(image, "PNG")
    response = client.post(f"/v1/models/{name}/predict?budget_ms=5000", content=image.getvalue())
    assert response.status_code == 200, response.text
    return str(response.json()["prediction"]["top"][0]["label"])


def test_a_load_takes_over_new_weights_and_nothing_else_does(folder: Path, client: httpx.Client) -> None:
    for place in PLACES:
        assert answer(client, place) == "red"
        write_scorer(folder / place, [1, 5, 2], place)
        assert answer(client, place) == "red"
        assert client.post(f"/v2/repository/models/{place}/load").status_code == 200
        assert answer(client, place) == "green"


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
