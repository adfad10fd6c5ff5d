"""Bundled models, served twice: with views made on the CPU, and by graphs."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import tta_server
from tests.support.jobs import SingleJob
from tests.support.onnx_models import classifier, write_model
from tests.support.patterns import noise
from tests.support.pictures import encoded
from tests.support.references import MODELS
from tta_server.backends import Backend
from tta_server.imaging.decoding import Limits
from tta_server.repository.graphs import GraphPipeline
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.telemetry.observer import Observers
from tta_server.views.geometry import Size

TIMES = ("elapsed_ms", "stages_ms", "request_id")
TOLERANCE = 1e-5
IN_PIXELS = ("boxes", "view_boxes", "keypoints", "view_keypoints", "spread", "mean_spread", "spread_by_keypoint")
TOLERANCES = {"grid_probabilities": 2e-5, **dict.fromkeys(IN_PIXELS, 1e-4)}
"""Of single cells of a map, and of parts of answers that are in pixels of the image."""


def with_graphs(folder: Path, source: Path, **keys: Any) -> Path:
    """A copy of a model folder whose views are made by graphs; `keys` replace others of tta.yaml."""
    made = folder / source.name
    shutil.copytree(source, made)
    config = yaml.safe_load((source / "tta.yaml").read_text("utf-8"))
    config |= {"backend": {"views": "graph"}, **keys}
    (made / "tta.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return made


@contextmanager
def served_both(folder: Path, name: str) -> Iterator[tuple[tta_server.LoadedModel, tta_server.LoadedModel]]:
    """A bundled model as it is, and with graphs, each with an engine of its own."""
    with tta_server.load(MODELS / name, 1) as local, tta_server.load(with_graphs(folder, MODELS / name), 1) as graph:
        yield local, graph


def check_alike(local: Any, graph: Any) -> None:
    """Two answers have equal receipts but for times, and results that differ by at most TOLERANCE."""
    one, other = (answer.receipt.to_dict() for answer in (local, graph))
    for key in TIMES:
        one.pop(key), other.pop(key)
    check_close(one, other)
    check_close(local.result, graph.result)


def check_close(one: Any, other: Any, tolerance: float = TOLERANCE) -> None:
    """Equal but for floats, which differ by at most `tolerance`, and as much of their size."""
    if is_dataclass(one) and not isinstance(one, type):
        assert type(one) is type(other)
        one, other = _fields(one), _fields(other)
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            check_close(one[key], other[key], TOLERANCES.get(key, tolerance))
    elif isinstance(one, float) or (isinstance(one, np.ndarray) and one.dtype.kind == "f"):
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(other, one)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for some, others in zip(one, other, strict=True):
            check_close(some, others, tolerance)
    else:
        assert one == other


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def toy(folder: Path, views: str, **keys: Any) -> Model:
    """A classifier of 8x8 pixels; `views` is that of its backend, `keys` replace others of tta.yaml."""
    config = {
        "task": "classification",
        "labels": ["red", "green", "blue"],
        "input": {"size": [8, 8], "resize": "exact", "scale": 255},
        "output": {"kind": "logits"},
        "policy": "d4",
        "symmetries": ["hflip", "rot90", "transpose"],
        "backend": {"views": views},
    }
    return load_model(write_model(folder / views, classifier(), config | keys))


def job_for(model: Model, size: Size, seed: int, image: bytes = b"", **options: Any) -> SingleJob:
    """A decoded job for an image, or noise."""
    source = read_source(image or encoded(noise(size, seed=seed)), Limits())
    plan = make_plan(model, Options(**options))
    made = SingleJob(make_job(plan, source, Deadline.after(60_000), Caller("test"), Observers()))
    made.decode()
    return made


def probabilities(single: SingleJob) -> NDArray[np.float64]:
    """Of the answer from the views merged so far."""
    single.settle(StopReason.ALL_VIEWS)
    return np.array(single.future.result().prediction["probabilities"])


def on_backend(model: Model, backend: Backend) -> Model:
    """The model, run by another backend."""
    pipeline = model.pipeline and GraphPipeline(model.preprocessing, backend)
    return replace(model, backend=backend, pipeline=pipeline)
