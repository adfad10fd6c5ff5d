"""Every task, preset and merge with graphs around the model answers as without, all views in one batch."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import point_models
from tests.support.graphed import TOLERANCE, check_close, job_for
from tests.support.jobs import run
from tests.support.map_models import class_mapper, query_segmenter
from tests.support.onnx_models import (
    classifier,
    detector,
    embedder,
    heat_maps,
    pointer,
    regressor,
    segmenter,
    write_model,
)
from tests.support.patterns import blob, smooth
from tests.support.pictures import encoded
from tests.support.point_models import point_model
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.image import read_source
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.run_views import run_views
from tta_server.tasks import ResponseFormat
from tta_server.views.geometry import Size
from tta_server.views.presets import PRESETS

LABELS = ["red", "green", "blue"]
FIXED: dict[str, Any] = {"size": [8, 8], "resize": "exact"}
WIDE: dict[str, Any] = {"size": [point_models.INPUT.height, point_models.INPUT.width]}
FREE: dict[str, Any] = {"size": "free", "multiple": 4}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "classification": (classifier(), {"input": FIXED, "output": {"kind": "logits"}}),
    "cropped": (
        classifier(),
        {"task": "classification", "input": {"size": [8, 8], "resize": 10}, "output": {"kind": "logits"}},
    ),
    "half": (
        classifier(dtype="float16"),
        {
            "task": "classification",
            "input": {**FIXED, "color": "BGR", "mean": [0.4, 0.5, 0.6]},
            "output": {"kind": "logits"},
        },
    ),
    "bytes": (
        classifier(("n", 8, 8, 3), "uint8"),
        {"task": "classification", "input": {**FIXED, "layout": "NHWC"}, "output": {"kind": "logits"}},
    ),
    "multilabel": (classifier(), {"input": FIXED, "output": {"kind": "logits", "threshold": 0.6}}),
    "regression": (regressor(), {"input": FIXED, "output": {"kind": "log1p"}}),
    "embedding": (embedder(), {"labels": [], "input": FIXED, "output": {}}),
    "segmentation": (segmenter(), {"input": {**FREE, "scale": 10}, "output": {"kind": "logits"}}),
    "masks": (segmenter(), {"task": "segmentation", "input": FREE, "output": {"kind": "logits", "multilabel": True}}),
    "tiled": (
        segmenter(),
        {
            "task": "segmentation",
            "input": {**FREE, "max_size": 24, "tile": 24, "overlap": 8},
            "output": {"kind": "logits"},
        },
    ),
    "class numbers": (class_mapper(), {"task": "segmentation", "input": FREE, "output": {"kind": "classes"}}),
    "queries": (query_segmenter(), {"task": "segmentation", "input": FREE, "output": {"kind": "queries"}}),
    "channels last": (
        segmenter(("n", "h", "w", 3)),
        {
            "task": "segmentation",
            "input": {**FREE, "scale": 10, "layout": "NHWC"},
            "output": {"kind": "logits", "layout": "NHWC"},
        },
    ),
    "keypoints": (heat_maps(), {"input": FREE, "output": {"kind": "heatmaps", "stride": 4, "pairs": []}}),
    "raw heat maps": (
        point_model(point_models.heat_maps),
        {
            "task": "keypoints",
            "input": WIDE,
            "output": {"kind": "heatmaps", "scores": "raw", "pairs": [["green", "blue"]]},
        },
    ),
    "raw heat maps, points last": (
        point_model(point_models.raw_heat_maps_last),
        {
            "task": "keypoints",
            "input": WIDE,
            "output": {"kind": "heatmaps", "scores": "raw", "layout": "NHWC", "pairs": [["green", "blue"]]},
        },
    ),
    "simcc": (
        point_model(point_models.simcc(2)),
        {"task": "keypoints", "input": WIDE, "output": {"kind": "simcc", "pairs": [["green", "blue"]]}},
    ),
    "points": (
        pointer(),
        {"task": "keypoints", "input": FIXED, "output": {"kind": "coordinates", "units": "normalized", "pairs": []}},
    ),
    "detection": (
        detector(),
        {"input": FREE, "output": {"boxes": "boxes", "scores": "scores", "labels": "labels", "units": "pixels"}},
    ),
}
PRECISION = {"float16": 5e-3, "uint8": 1e-2}
"""Of models whose input is not float32; of bytes one may be rounded the other way."""
ROTATED = '["identity", {"rotate": 10}, [{"crop": 0.8}, "hflip"], {"brightness": 1.1}]'
WEIGHTED = '["identity", {"steps": ["hflip"], "weight": [1, 0.5, 2]}]'


def loaded(folder: Path, name: str, views: str) -> Model:
    model, keys = MODELS[name]
    config = {
        "task": name,
        "labels": LABELS,
        "symmetries": ["hflip", "rot90", "transpose"],
        "limits": {"rotate": 45, "zoom": 3},
        "backend": {"views": views},
    }
    return load_model(write_model(folder / views, model, config | keys))


def image_for(model: Model) -> bytes:
    """Much larger than a tile where there are tiles."""
    if model.preprocessing.size == point_models.INPUT:  # peaks that rounding does not move to another cell
        hills = [blob(Size(38, 30), place, 2) for place in ((9.7, 7.4), (11.3, 20.8), (28.2, 15.3))]
        return encoded((0.8 * np.stack([hills[0], hills[1] + hills[2], hills[2]], axis=2)).astype(np.uint8))
    return encoded(smooth(Size(110, 70) if model.preprocessing.tile == 24 else Size(38, 30)))


def answer(model: Model, **options: Any) -> Answer:
    """The views of one input size are one batch."""
    single = job_for(model, Size(38, 30), 0, image_for(model), format=ResponseFormat.ARRAYS, **options)
    buckets = single.job.buckets
    for _, group in groupby(sorted(range(len(buckets)), key=lambda i: buckets[i]), key=lambda i: buckets[i]):
        assert not any(outcome.lost for outcome in run([(single, view) for view in group]))
    single.settle(StopReason.ALL_VIEWS)
    return single.future.result()


def policies(name: str) -> list[str]:
    entry = MODELS[name][1]["input"]
    unfit = {"five_crop", "ten_crop"} if entry["size"] == "free" else {"d4"} if entry is WIDE else set()
    return [*(preset for preset in PRESETS if preset not in unfit), ROTATED]


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_and_merge_answers_alike(tmp_path: Path, name: str) -> None:
    local, graph = (loaded(tmp_path, name, views) for views in ("local", "graph"))
    for merge in local.task.merges:
        exact = merge == "vote"  # rounding may move the vote of a pixel
        others = ["flips", "d4"] if exact else ["flips", ROTATED]
        for policy in policies(name) if merge == local.merge and not exact else others:
            check_alike(local, graph, policy=policy, merge=merge)


@pytest.mark.parametrize("name", MODELS)
def test_everything_that_may_be_included_is_alike(tmp_path: Path, name: str) -> None:
    local, graph = (loaded(tmp_path, name, views) for views in ("local", "graph"))
    policy = "d4" if "d4" in policies(name) else "flips"
    check_alike(local, graph, policy=policy, include=frozenset(local.task.includes) - {"drawing"})


@pytest.mark.parametrize("name", ["classification", "multilabel", "segmentation"])
def test_weights_by_class(tmp_path: Path, name: str) -> None:
    local, graph = (loaded(tmp_path, name, views) for views in ("local", "graph"))
    check_alike(local, graph, policy=WEIGHTED, include=frozenset(["probabilities"]))


def check_alike(local: Model, graph: Model, **options: Any) -> None:
    one, other = (answer(model, **options) for model in (local, graph))
    check_close(one.receipt.views, other.receipt.views)
    check_close(one.receipt.confidence, other.receipt.confidence)
    check_close(dict(one.receipt.uncertainty), dict(other.receipt.uncertainty))
    if hasattr(one.result, "mask"):
        assert np.count_nonzero(one.result.mask != other.result.mask) == 0
    check_close(one.result, other.result, PRECISION.get(local.preprocessing.dtype.name, TOLERANCE))


def test_a_stop_rule_of_masks_sees_the_same_evidence(tmp_path: Path) -> None:
    """Views one after the other, some of which show a part of the image."""
    policy = '["identity", {"shift": [6, 0]}, "hflip", {"rotate": 10}, "vflip", {"rot90": 2}]'
    found = []
    for views in ("local", "graph"):
        model = loaded(tmp_path, "segmentation", views)
        single = job_for(model, Size(38, 30), 0, image_for(model), policy=policy, stop='{"open": 0.4}')
        found.append([run([(single, view)])[0] for view in range(6)])
    assert [outcome.stop for outcome in found[0]] == [outcome.stop for outcome in found[1]]
    assert any(outcome.stop for outcome in found[0])
    shares = [[outcome.open_share for outcome in outcomes] for outcomes in found]
    assert shares[1] == pytest.approx(shares[0], abs=2e-3)


@pytest.mark.parametrize("name", ["classification", "segmentation", "detection"])
def test_views_that_are_run_one_by_one_give_their_own_predictions(tmp_path: Path, name: str) -> None:
    """As calibration and contact sheets take them."""
    found = []
    for views in ("local", "graph"):
        plan = make_plan(loaded(tmp_path, name, views), Options(policy=ROTATED))
        found.append(run_views(plan, read_source(image_for(plan.model), Limits())).predictions)
    assert len(found[0]) == 4
    for local, graph in zip(*found, strict=True):
        check_close(local, graph, 1e-3)
