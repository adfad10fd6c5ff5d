"""Segmentation models of each form, end to end: plain and with flips, with views made here and by graphs."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.map_models import SHARPNESS, class_mapper, one_map, query_segmenter
from tests.support.onnx_models import segmenter, write_model
from tests.support.patterns import noise
from tests.support.pictures import encoded
from tests.support.toys import serving
from tta_server import LoadedModel, load
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.serving.verification import verify
from tta_server.views.geometry import Size

Array = NDArray[Any]
LABELS = ["red", "green", "blue"]
FREE: dict[str, Any] = {"size": "free"}
LAST: dict[str, Any] = {"size": "free", "layout": "NHWC"}


def folder(path: Path, model: onnx.ModelProto, output: dict[str, Any], **more: Any) -> Path:
    config = {
        "task": "segmentation",
        "labels": LABELS,
        "input": FREE,
        "output": output,
        "policy": "flips",
        "symmetries": ["hflip", "vflip", "rot90", "transpose"],
        "limits": {"rotate": 45, "zoom": 3},
        "budget": {"default_ms": 30_000, "max_ms": 60_000},
    }
    return write_model(path / "maps", model, config | more)


views = pytest.mark.parametrize("views", ["local", "graph"])
POLICIES = {"plain": 1, "flips": 4, "d4": 8}
CASES = list(product(POLICIES, [Size(45, 31), Size(24, 40)]))


def loaded(path: Path, views: str, model: onnx.ModelProto, output: dict[str, Any], **more: Any) -> LoadedModel:
    return load(folder(path, model, output, backend={"views": views}, **more), slots=1)


# ---- class numbers ----


@views
@pytest.mark.parametrize(
    ("dtype", "has_axis", "layout"),
    [("int64", False, "NCHW"), ("int64", True, "NCHW"), ("uint8", False, "NHWC"), ("float32", True, "NHWC")],
)
def test_class_numbers_are_answered_as_they_are(
    tmp_path: Path, views: str, dtype: str, has_axis: bool, layout: str
) -> None:
    output = {"kind": "classes", "layout": layout}
    entry = FREE if layout == "NCHW" else LAST
    with loaded(tmp_path, views, class_mapper(dtype, has_axis, layout), output, input=entry) as model:
        for policy, size in CASES:
            image = noise(size)
            image[3:9, 5:20] = 0  # where the model gives 255
            answer = model.predict(image, policy=policy)
            np.testing.assert_array_equal(answer.result.mask, np.where(image.any(axis=2), image.argmax(axis=2), 255))
            assert (answer.receipt.merge, len(answer.receipt.views)) == ("vote", POLICIES[policy])
            assert (answer.receipt.warnings, answer.receipt.dropped) == ((), 0)


@views
def test_views_that_give_other_classes_are_outvoted(tmp_path: Path, views: str) -> None:
    """Views without colour are of class 0, whatever the image is."""
    image = np.full((20, 30, 3), (10, 10, 200), np.uint8)
    policy = ["identity", "grayscale", "hflip", {"steps": ["grayscale", "vflip"], "weight": 0.5}]
    with loaded(tmp_path, views, class_mapper(), {"kind": "classes"}) as model:
        answer = model.predict(image, policy=policy, include=["agreement", "uncertainty", "views", "probabilities"])
    np.testing.assert_array_equal(answer.result.mask, 2)
    np.testing.assert_allclose(answer.result.agreement, 2 / 3.5, atol=1e-6)
    np.testing.assert_allclose(answer.result.probabilities[0], 1.5 / 3.5, atol=1e-6)
    assert answer.result.view_agreements == [1, 0, 1, 0]
    assert answer.receipt.confidence == pytest.approx(2 / 3.5)


@views
@pytest.mark.parametrize("stop", ["all", "certain", '{"open": 0.2}'])
def test_stop_rules_of_class_numbers(tmp_path: Path, views: str, stop: str) -> None:
    image = noise(Size(45, 31))
    with loaded(tmp_path, views, class_mapper(), {"kind": "classes"}) as model:
        answer = model.predict(image, policy="d4", stop=stop, max_views=8)
    np.testing.assert_array_equal(answer.result.mask, image.argmax(axis=2))
    assert (len(answer.receipt.views) == 8) == (stop == "all")
    assert (answer.receipt.stop_reason == "all_views") == (stop == "all")


def test_class_numbers_in_tiles_are_those_of_the_whole(tmp_path: Path) -> None:
    image = noise(Size(110, 70))
    image[20:40, 30:60] = 0
    entry = {"size": "free", "max_size": 24, "tile": 24, "overlap": 8}
    with loaded(tmp_path, "local", class_mapper(), {"kind": "classes"}, input=entry) as model:
        answer = model.predict(image, policy="flips", include=["uncertainty"])
    np.testing.assert_array_equal(answer.result.mask, np.where(image.any(axis=2), image.argmax(axis=2), 255))
    assert answer.receipt.tiles > 1


@views
def test_rotated_and_cropped_views_of_large_areas_keep_them(tmp_path: Path, views: str) -> None:
    image = np.full((60, 90, 3), (200, 10, 10), np.uint8)
    image[:, 45:] = (10, 10, 200)
    policy = ["identity", {"rotate": 10}, {"crop": 0.7}, {"zoom": 1.5}, {"scale": 1.25}]
    with loaded(tmp_path, views, class_mapper(), {"kind": "classes"}) as model:
        mask = model.predict(image, policy=policy, max_views=5).result.mask
    np.testing.assert_array_equal(mask[:, :44], 0)
    np.testing.assert_array_equal(mask[:, 46:], 2)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(load_model(folder(tmp_path, class_mapper(gap=("red", 7)), {"kind": "classes"}))) as http:
        yield http


def test_a_number_without_a_label_is_never_answered(client: httpx.Client) -> None:
    """The model gives 7 only where a pixel is all red, as in no test image."""
    image = noise(Size(20, 12))
    assert client.post("/v1/models/maps/predict", content=encoded(image)).status_code == 200
    image[2, 3] = (255, 0, 0)
    reply = client.post("/v1/models/maps/predict", content=encoded(image))
    assert reply.status_code == 502
    assert "the class number 7, but labels has 3 names, for 0 to 2" in reply.json()["error"]


# ---- queries ----


def query_reference(cells: Array) -> Array:
    """Of the channels (h, w, 3) of cells: the maps (C, h, w) of transformers' own post-processing, before its argmax.

    With one query for each class they are the mask times the class's probability.
    """
    scores = np.exp(4.0 * np.eye(3, 4) - 2)
    classes = scores / scores.sum(axis=1, keepdims=True)
    masks = 1 / (1 + np.exp(-SHARPNESS * (cells.astype(np.float64) / 255 - 0.5)))
    return np.asarray(np.einsum("qc,hwq->chw", classes[:, :3], masks))


@views
def test_queries_are_answered_as_transformers_does(tmp_path: Path, views: str) -> None:
    with loaded(tmp_path, views, query_segmenter(), {"kind": "queries"}) as model:
        for policy, size in CASES:
            image = noise(size)
            expected = query_reference(image)
            answer = model.predict(image, policy=policy, include=["probabilities"])
            shares = np.sort(expected / expected.sum(axis=0), axis=0)
            clear = shares[-1] - shares[-2] > 1e-4
            np.testing.assert_array_equal(answer.result.mask[clear], expected.argmax(axis=0)[clear])
            np.testing.assert_allclose(answer.result.probabilities, expected / expected.sum(axis=0), atol=1e-4)
            assert (answer.receipt.warnings, answer.receipt.dropped) == ((), 0)


@views
def test_masks_of_a_quarter_of_the_size_are_enlarged_as_transformers_does(tmp_path: Path, views: str) -> None:
    """The maps are interpolated, then the largest is taken; here each cell has one class, and all the same sum."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24], image[:, 24:], image[:16, 36:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    maps = query_reference(image[::4, ::4])
    enlarged = np.stack([cv2.resize(each, (48, 32), interpolation=cv2.INTER_LINEAR) for each in maps])
    with loaded(tmp_path, views, query_segmenter(4), {"kind": "queries"}, input={**FREE, "multiple": 4}) as model:
        for policy in POLICIES:
            mask = model.predict(image, policy=policy).result.mask
            np.testing.assert_array_equal(mask, enlarged.argmax(axis=0))


# ---- score maps in other layouts ----


@views
@pytest.mark.parametrize("multilabel", [False, True])
def test_maps_with_channels_last_are_answered_as_with_channels_first(
    tmp_path: Path, views: str, multilabel: bool
) -> None:
    output = {"kind": "probabilities", "multilabel": multilabel}
    off: dict[str, Any] = {"checks": {"scores.sum": "off"}}  # the image's own values are the scores
    last = segmenter(("n", "h", "w", 3)), {**output, "layout": "NHWC"}
    with (
        loaded(tmp_path / "first", views, segmenter(), output, **off) as first,
        loaded(tmp_path / "last", views, *last, input=LAST, **off) as other,
    ):
        for policy, size in CASES:
            one, two = (
                model.predict(noise(size), policy=policy, include=["probabilities", "agreement"]).result
                for model in (first, other)
            )
            np.testing.assert_array_equal(one.area, two.area)
            np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-6)
            np.testing.assert_allclose(one.probabilities, noise(size).transpose(2, 0, 1) / 255, atol=1e-5)
            np.testing.assert_allclose(one.agreement, two.agreement, atol=1e-6)


@views
@pytest.mark.parametrize(("activation", "kind"), [("Identity", "logits"), ("Sigmoid", "probabilities")])
def test_one_map_without_an_axis_is_the_mask_of_one_label(
    tmp_path: Path, views: str, activation: str, kind: str
) -> None:
    output = {"kind": kind, "multilabel": True}
    with loaded(tmp_path, views, one_map(activation), output, labels=["bright"]) as model:
        for policy, size in CASES:
            image = noise(size)
            result = model.predict(image, policy=policy, include=["probabilities"]).result
            expected = 1 / (1 + np.exp(-6 * (image[..., 0] / 255 - 0.5)))
            np.testing.assert_array_equal(result.masks[0], image[..., 0] > 127)
            np.testing.assert_allclose(result.probabilities[0], expected, atol=1e-5)


# ---- wrong declarations ----

WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any], str]] = {
    "classes as logits": (
        class_mapper,
        {"output": {"kind": "logits"}},
        r"shape \[N, 3, h, w\]; the model gives \[any, any, any\]; for class numbers set output.kind: classes",
    ),
    "classes as the logits of one label": (
        class_mapper,
        {"output": {"kind": "logits", "multilabel": True}, "labels": ["red"]},
        r"one map of type int64: for class numbers set output.kind: classes.*\(check scores.type;",
    ),
    "scores as classes": (
        segmenter,
        {"output": {"kind": "classes"}},
        r"\[N, h, w\] or \[N, 1, h, w\]; .* for scores set output.kind: logits or probabilities",
    ),
    "one score as classes": (
        lambda: one_map("Sigmoid"),
        {"output": {"kind": "classes"}},
        r"which is no class number; .* output.multilabel: true and one name in labels \(check maps.classes;",
    ),
    "fewer labels than classes": (
        class_mapper,
        {"output": {"kind": "classes"}, "labels": ["red", "green"]},
        r"the class number 2, but labels has 2 names, for 0 to 1; .*\(check maps.classes;",
    ),
    "one label of classes": (
        class_mapper,
        {"output": {"kind": "classes"}, "labels": ["red"]},
        r"labels has one name, .* each class number, also for the background \(check scores.one_class;",
    ),
    "queries as logits": (
        query_segmenter,
        {"output": {"kind": "logits", "name": "masks_queries_logits"}},
        r"set output.kind: queries",
    ),
    "logits as queries": (
        segmenter,
        {"output": {"kind": "queries"}},
        r"output.scores is 'class_queries_logits'; the model file has maps",
    ),
    "queries with a label for none": (
        query_segmenter,
        {"output": {"kind": "queries"}, "labels": [*LABELS, "none"]},
        r"shape \[N, Q, 5\], the last for no object; .* labels leaves the one for no object out",
    ),
    "channels last as first": (
        lambda: segmenter(("n", "h", "w", 3)),
        {"output": {"kind": "logits"}, "input": LAST},
        r"set output.layout: NHWC",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_with_the_right_one(tmp_path: Path, name: str) -> None:
    model, keys, words = WRONG[name]
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        verify(load_model(folder(tmp_path, model(), **keys)))
