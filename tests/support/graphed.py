"""Bundled models, served twice: with views made on the CPU, and by graphs."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import tta_server
from tests.support.references import MODELS

TIMES = ("elapsed_ms", "stages_ms", "request_id")
TOLERANCE = 1e-5
PIXELS = 1e-4
IN_PIXELS = {"boxes", "view_boxes", "keypoints", "view_keypoints", "spread", "mean_spread", "spread_by_keypoint"}
"""Parts of answers that are in pixels of the image."""


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
            check_close(one[key], other[key], PIXELS if key in IN_PIXELS else tolerance)
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
