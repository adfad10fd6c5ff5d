"""A real Triton 2.51 that runs exported ensembles answers as the model in this process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

import tta_server
from tests.support.ensembles import export
from tests.support.graphed import check_close, with_graphs
from tests.support.real_triton import VENV, RealTriton, is_installed
from tests.support.references import MODELS
from tests.support.remote import remote_folder
from tta_server.repository.loader import load_model
from tta_server.serving.ensemble import EnsembleImage
from tta_server.tasks import Result

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason=f"no Triton in {VENV}: `make triton` installs it"),
]

ALL = {"budget_ms": 60_000, "min_views": "all", "stop": "all"}
NAMES = ["bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTriton]:
    with RealTriton(tmp_path_factory.mktemp("triton") / "triton") as running:
        for name in NAMES:
            export(MODELS / name, running.repository)
        yield running.start()


@pytest.mark.parametrize("name", NAMES)
def test_24_images_in_flight_equal_those_of_this_process(tmp_path: Path, server: RealTriton, name: str) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    with tta_server.load(with_graphs(tmp_path, MODELS / name), 1) as graph:
        expected = graph.predict(sample, stop="all", min_views="all").result
    model = load_model(MODELS / name)
    with triton.InferenceServerClient(server.url.partition("://")[2]) as client:

        def ask(rows: int) -> Result:
            image = EnsembleImage(model, sample.read_bytes(), rows=rows)
            for request in image.requests():
                inputs = [_tensor(name, values) for name, values in request.inputs.items()]
                answer = client.infer(f"{name}_tta", inputs, client_timeout=60)
                image.add(request, {name: answer.as_numpy(name) for name in request.outputs})
            return image.result()

        with ThreadPoolExecutor(24) as clients:
            for found in clients.map(ask, [64, 3, 1, 5] * 6):
                check_close(expected, found, 1e-6)
    rows, batches = server.executed(name)
    assert rows > batches


@pytest.mark.parametrize("name", NAMES)
def test_requests_through_the_ensemble_are_answered_as_in_this_process(
    tmp_path: Path, server: RealTriton, name: str
) -> None:
    """24 at once, some with merges and views that the ensemble does not sum."""
    (sample,) = (MODELS / name).glob("sample.*")
    folder = remote_folder(
        tmp_path / "remote" / name, MODELS / name, server.url, model=f"{name}_tta", views="graph", permits=8
    )
    others = {"cifar10": {"merge": "vote"}, "clothing": {"include": ["views"]}}.get(name, {"policy": "flips"})
    ways: list[dict[str, Any]] = [{**ALL, **keys} for keys in ({}, others)]
    with tta_server.load(with_graphs(tmp_path / "graph", MODELS / name), 1) as graph:
        expected = [graph.predict(sample, **way).result for way in ways]
    with tta_server.load(folder) as remote, ThreadPoolExecutor(24) as clients:
        found = clients.map(lambda n: remote.predict(sample, **ways[n % 2]).result, range(24))
        for n, result in enumerate(found):
            check_close(expected[n % 2], result, 1e-6)


def _tensor(name: str, values: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made
