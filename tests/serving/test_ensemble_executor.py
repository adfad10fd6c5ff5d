"""Models whose views are made by an ensemble in a Triton server answer as those whose views are made here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import yaml

import tta_server
from tests.support.configs import CLASSIFICATION, changed
from tests.support.ensembles import export
from tests.support.graphed import check_alike, job_for, probabilities, with_graphs
from tests.support.jobs import run
from tests.support.onnx_models import classifier, write_model
from tests.support.patterns import noise
from tests.support.pictures import encoded
from tests.support.references import MODELS
from tests.support.remote import RemoteServer, remote_folder
from tests.support.serving import until
from tests.support.toys import faulty_model, serving
from tta_server.errors import BackendFailed, ConfigError
from tta_server.imaging.decoding import Raster
from tta_server.imaging.preprocessing import Canvas, Preprocessing
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.views.geometry import Size

ALL = {"budget_ms": 10_000, "min_views": "all", "stop": "all"}
SAMPLED = ["identity", {"rotate": 7}, ["hflip", {"zoom": 1.2}], {"shift": [1.5, 2]}, {"contrast": 1.3}, {"hue": 20}]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "clothing": [{}, {"policy": SAMPLED}, {"merge": "vote", "include": ["views", "agreement", "uncertainty"]}],
    "cifar10": [{"policy": SAMPLED}, {"merge": "geometric_mean"}],
    "bloodcells": [{}, {"policy": SAMPLED}],
    "mouse": [{}, {"policy": SAMPLED}],
    "nuclei-count": [{}, {"include": ["views"]}],
    "nuclei": [{"include": ["probabilities"]}, {"policy": SAMPLED, "include": ["probabilities"]}],
}
Toy = tuple[RemoteServer, Model, Model]
SLOW = {"bloodcells", "mouse", "nuclei-count", "nuclei"}


@contextmanager
def exported(folder: Path, source: Path) -> Iterator[tuple[RemoteServer, Path]]:
    """A server with what was exported for a model, and the model's folder with that backend."""
    export(source, folder / "repository")
    files = {source.name: source / "1" / "model.onnx"}
    with RemoteServer(files, 64, repository=folder / "repository") as server:
        keys = {"model": f"{source.name}_tta", "views": "graph"}
        yield server, remote_folder(folder / "models" / source.name, source, server.url, **keys)


def asked(server: RemoteServer) -> list[str]:
    return [request.model_name for request in server.requests]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in OPTIONS]
)
def test_a_bundled_model_answers_alike(tmp_path: Path, name: str) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    with (
        exported(tmp_path, MODELS / name) as (_, folder),
        tta_server.load(MODELS / name, 1) as local,
        tta_server.load(folder, 1) as remote,
    ):
        for options in OPTIONS[name]:
            check_alike(*(model.predict(sample, **ALL, **options) for model in (local, remote)))


def test_heat_maps_are_summed(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    keys = {"merge": "mean_heatmaps", "backend": "onnxruntime", "policy": ["identity", "hflip", {"rotate": 7}]}
    source = with_graphs(tmp_path / "files", MODELS / "mouse", **keys)
    (sample,) = source.glob("sample.*")
    with (
        exported(tmp_path, source) as (server, folder),
        tta_server.load(source, 1) as local,
        tta_server.load(folder, 1) as remote,
    ):
        server.requests.clear()
        check_alike(*(model.predict(sample, **ALL) for model in (local, remote)))
        assert "mouse_tta" in asked(server)
        assert all(request.inputs[0].shape[0] == 1 for request in server.requests if request.model_name == "mouse")


# ---- what is asked ----


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A classifier of 8x8 pixels in a server that sums probabilities, and the same with its views made here."""
    sized = {"size": [8, 8], "resize": "exact", "scale": 255}
    config = changed(CLASSIFICATION, input=sized, policy="d4", symmetries=["hflip", "rot90", "transpose"])
    source = write_model(tmp_path / "files" / "toy", classifier(), config)
    with exported(tmp_path, source) as (server, folder):
        yield server, load_model(folder), load_model(source)


PROBABILITIES = frozenset(["probabilities"])


def test_jobs_of_one_batch_may_merge_differently(toy: Toy) -> None:
    """What the ensemble does not sum goes to the model in it."""
    server, remote, local = toy
    options: list[dict[str, Any]] = [
        {},
        {"merge": "vote"},
        {"merge": "max"},
        {},
        {"include": PROBABILITIES | {"views"}},
    ]
    found = []
    server.requests.clear()
    for model in (local, remote):
        jobs = [job_for(model, Size(9, 8), n, **{"include": PROBABILITIES} | each) for n, each in enumerate(options)]
        assert not any(outcome.lost for outcome in run([(each, view) for view in range(3) for each in jobs]))
        found.append([probabilities(each) for each in jobs])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)
    assert asked(server) == ["toy_tta", "toy"]
    assert [list(server.requests[0].inputs[1].shape), list(server.requests[1].inputs[0].shape)] == [
        [6, 28],
        [16, 3, 8, 8],
    ]


def test_where_all_views_are_needed_the_model_is_called(toy: Toy) -> None:
    server, remote, _ = toy
    server.requests.clear()
    batch = ModelExecutor().run([(job_for(remote, Size(9, 8), 0, merge="max").payload.views, 0)])
    assert not batch.sums
    assert asked(server) == ["toy"]


class NoLargerCanvas(Preprocessing):
    """Can't resize an image for a scale over 1."""

    def canvas(self, raster: Raster, scale: float) -> Canvas:
        if scale > 1:
            raise RuntimeError("no memory")
        return super().canvas(raster, scale)


def test_views_that_can_not_be_made_and_images_that_were_released_are_not_sent(toy: Toy) -> None:
    server, remote, _ = toy
    fields = {name: getattr(remote.preprocessing, name) for name in Preprocessing.__dataclass_fields__}
    model = replace(remote, preprocessing=NoLargerCanvas(**fields))
    gone, good, bad = (job_for(model, Size(9, 8), n, policy='["identity", {"scale": 1.5}]') for n in range(3))
    gone.settle(StopReason.ALL_VIEWS)
    server.requests.clear()
    ended, merged, failed = run([(gone, 0), (good, 0), (bad, 1)])
    assert not ended.lost
    assert not merged.lost
    assert str(failed.error) == "a view of the image could not be made"
    assert [list(each.shape) for each in server.requests[0].inputs if each.name == "rows"] == [[1, 28]]
    server.requests.clear()
    run([(gone, 0)])
    assert not server.requests


def test_a_view_whose_output_is_not_sound_is_lost_alone(tmp_path: Path) -> None:
    """The square root of the second image's scores is NaN."""
    black = encoded(np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "files").mkdir()
    with exported(tmp_path, faulty_model(tmp_path / "files" / "toy")) as (_, folder):
        model = load_model(folder)
        good, bad = job_for(model, Size(8, 8), 1), job_for(model, Size(8, 8), 1, image=black)
        merged, lost = run([(good, 0), (bad, 0), (good, 1), (bad, 1)])
    assert (merged.lost, lost.lost) == (0, 0b11)
    assert str(lost.error) == "the model's output for view 'plain' holds NaN or infinity"


def test_tiles_of_maps_that_the_ensemble_sums_are_made_here(tmp_path: Path) -> None:
    """Blended tiles are no sums of whole maps."""
    sized = {"size": "free", "multiple": 16, "color": "RGB", "scale": 255, "max_size": 256, "tile": 256}
    (tmp_path / "files").mkdir()
    source = with_graphs(tmp_path / "files", MODELS / "nuclei", input=sized, backend="onnxruntime", policy="hflip")
    image = noise(Size(300, 300), seed=0)
    with (
        exported(tmp_path, source) as (server, folder),
        tta_server.load(source, 1) as local,
        tta_server.load(folder, 1) as remote,
    ):
        server.requests.clear()
        check_alike(*(model.predict(image, **ALL) for model in (local, remote)))
        assert set(asked(server)) == {"nuclei"}
        server.requests.clear()
        check_alike(*(model.predict(image[:200, :200], **ALL) for model in (local, remote)))
        assert set(asked(server)) == {"nuclei", "nuclei_tta"}  # the model, for the size of its maps


# ---- failures ----


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 502, "backend_failed"),
        (grpc.StatusCode.UNAVAILABLE, 503, "not_ready"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded"),
    ],
)
@pytest.mark.timing
def test_a_failure_has_the_status_that_it_has_with_views_made_here(
    toy: Toy, failure: grpc.StatusCode, status: int, code: str
) -> None:
    server, remote, _ = toy
    image = encoded(noise(Size(9, 9), seed=0))
    with serving(remote, workers=1) as client:

        def ask() -> httpx.Response:
            return client.post("/v1/models/toy/predict", content=image, params={"budget_ms": "5000"})

        until(lambda: ask().status_code == 200)
        server.failure = failure
        answer = ask()
        server.failure = None
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "on purpose" not in answer.text
        until(lambda: ask().status_code == 200)


def test_a_wrong_number_of_rows_fails_the_batch(toy: Toy) -> None:
    _, remote, _ = toy
    assert remote.ensemble is not None
    short = {"total": np.zeros((1, 3), np.float32), "weights": np.ones((1, 1), np.float32), "sound": np.ones(1, bool)}
    model = replace(remote, ensemble=replace(remote.ensemble, infer=lambda *_: short))
    single = job_for(model, Size(9, 9), 1)
    with pytest.raises(BackendFailed, match="another number of rows than it was given"):
        run([(single, 0), (single, 1)])


def test_a_model_that_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    with RemoteServer({"clothing": MODELS / "clothing" / "1" / "model.onnx"}) as server:
        folder = remote_folder(tmp_path / "clothing", MODELS / "clothing", server.url, views="graph")
        with pytest.raises(
            ConfigError, match=r"clothing of .* is no ensemble, which `views: graph` needs: give the name"
        ):
            load_model(folder)


def test_an_ensemble_for_another_input_is_refused(tmp_path: Path) -> None:
    with exported(tmp_path, MODELS / "clothing") as (_, folder):
        config = yaml.safe_load((folder / "tta.yaml").read_text("utf-8"))
        config["input"]["mean"] = [0.5]
        (folder / "tta.yaml").write_text(yaml.safe_dump(config), "utf-8")
        with pytest.raises(
            ConfigError, match=r"made for mean \[.*\], and this tta.yaml needs \[0.5\]; run `tta-server"
        ):
            load_model(folder)
