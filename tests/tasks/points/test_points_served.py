"""Every form of keypoints from a model folder to an answer: a real file that gives it, and points that are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import point_models as forms
from tests.support.onnx_models import write_model
from tests.support.point_models import INPUT, LABELS, point_model
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.views.geometry import Size

CONFIG: dict[str, Any] = {
    "task": "keypoints",
    "labels": LABELS,
    "input": {"size": [INPUT.height, INPUT.width]},
    "policy": ["identity", "hflip", "vflip", {"rot90": 2}],
    "symmetries": ["hflip", "vflip", "rot180"],
    "budget": {"default_ms": 10_000, "max_ms": 10_000, "min_views": "all"},
}
FLAT = {"kind": "coordinates"}
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "simcc": (forms.simcc(2), {"kind": "simcc"}),
    "simcc of split 1": (forms.simcc(1), {"kind": "simcc", "split": 1}),
    "simcc of split 3": (forms.simcc(3, ("across", "down")), {"kind": "simcc", "split": 3, "x": "across", "y": "down"}),
    "raw heat maps": (forms.heat_maps, {"kind": "heatmaps", "scores": "raw", "stride": 1}),
    "heat maps, points last": (forms.heat_maps_last, {"kind": "heatmaps", "layout": "NHWC", "stride": 1}),
    "raw heat maps, points last": (
        forms.raw_heat_maps_last,
        {"kind": "heatmaps", "scores": "raw", "layout": "NHWC", "stride": 1},
    ),
    "flat": (forms.flat, FLAT),
    "flat with confidence": (forms.flat_rows, FLAT),
    "signed": (forms.signed, {**FLAT, "units": "signed"}),
    "signed and flat": (forms.signed_flat, {**FLAT, "units": "signed"}),
}
PLACES = [(20, 10), (30, 40), (70, 50)]
"""Pixels of the nose and the eyes in 96x64."""
SHADE = 204
"""Of these pixels: 0.8 of white."""


def folder(tmp_path: Path, name: str, **changes: Any) -> Path:
    make, output = FORMS[name]
    keys = {"output": {**output, "pairs": [LABELS[1:]], **changes.pop("output", {})}, **changes}
    return write_model(tmp_path / name.replace(" ", "-"), point_model(make), CONFIG | keys)


def lit(size: Size, places: list[tuple[int, int]] = PLACES, side: int = 1) -> NDArray[np.uint8]:
    """An image with squares of light whose corners are at places x, y: red, green, green."""
    pixels = np.zeros((size.height, size.width, 3), np.uint8)
    for channel, (x, y) in zip((0, 1, 1), places, strict=True):
        pixels[y : y + side, x : x + side, channel] = SHADE
    return pixels


def points_of(answer: Any) -> NDArray[np.float64]:
    return np.array([(point["x"], point["y"]) for point in answer.prediction["keypoints"]])


@pytest.mark.parametrize("name", FORMS)
def test_every_view_and_the_merge_give_the_known_points(tmp_path: Path, name: str) -> None:
    with load(folder(tmp_path, name), slots=1) as model:
        answers = [
            model.predict(lit(INPUT), merge=merge, include=["views", "uncertainty"])
            for merge in model.model.task.merges
        ]
    raw, sure = 0.8 * 1.2 - 0.1, name in ("flat", "signed", "signed and flat")
    confidence = 1 if sure else raw if "raw" in name else 0.8
    for answer in answers:
        assert answer.receipt.warnings == ()
        np.testing.assert_allclose(points_of(answer), np.add(PLACES, 0.5), atol=1e-3)
        assert [point["label"] for point in answer.prediction["keypoints"]] == LABELS
        assert [point["views"] for point in answer.prediction["keypoints"]] == [4, 4, 4]
        assert answer.receipt.confidence == pytest.approx(confidence, abs=1e-4)
        assert answer.receipt.uncertainty["mean_spread"] == pytest.approx(0, abs=1e-3)
        for view in answer.receipt.views:
            np.testing.assert_allclose(np.array(view["keypoints"])[:, :2], np.add(PLACES, 0.5), atol=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_points_of_a_larger_image_come_back(tmp_path: Path, name: str) -> None:
    """Squares of 2x3 pixels, each of which is a pixel of the input."""
    image = lit(Size(2 * INPUT.width, 3 * INPUT.height), [(0, 0)] * 3)
    image[:3, :2] = 0
    for channel, (x, y) in zip((0, 1, 1), PLACES, strict=True):
        image[3 * y : 3 * y + 3, 2 * x : 2 * x + 2, channel] = SHADE
    with load(folder(tmp_path, name), slots=1) as model:
        found = points_of(model.predict(image))
    np.testing.assert_allclose(found, np.add(PLACES, 0.5) * (2, 3), atol=0.1)


@pytest.mark.parametrize("name", FORMS)
def test_points_of_a_letterboxed_image_come_back(tmp_path: Path, name: str) -> None:
    """48x64 pixels between bars of 24 pixels on the left and the right."""
    entry = {**CONFIG["input"], "resize": "letterbox", "letterbox_fill": 0}
    places = [(x - 24, y) for x, y in [(30, 10), (40, 40), (60, 50)]]
    with load(folder(tmp_path, name, input=entry), slots=1) as model:
        found = points_of(model.predict(lit(Size(48, 64), places)))
    np.testing.assert_allclose(found, np.add(places, 0.5), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "simcc",
            {"split": 3},
            r"split is 3, but the model gives 192 bins across and 128 down .*; set output\.split: 2",
        ),
        ("simcc", {"x": "simcc_y", "y": "simcc_x"}, r"set output\.x: simcc_x and output\.y: simcc_y"),
        ("simcc", {"x": "across"}, r"output\.x is 'across'; the model file has simcc_x, simcc_y"),
        ("raw heat maps", {"scores": "probabilities"}, r"the model gives -0\.1 to .*; set output\.scores: raw"),
        (
            "raw heat maps",
            {"layout": "NHWC"},
            r"layout is NHWC, but .* of shape \[any, 3, 64, 96\]; set output\.layout: NCHW",
        ),
        ("heat maps, points last", {"layout": "NCHW"}, r"set output\.layout: NHWC"),
        ("signed", {"units": "normalized"}, r"units is normalized, but .*; .* set output\.units: signed"),
        ("signed and flat", {"units": "pixels"}, r"units is pixels, but .*; .* set output\.units: signed"),
        ("flat", {"units": "signed"}, r"units is signed, but .*; for pixels of the input set output\.units: pixels"),
        ("flat", {"scores": "logits", "layout": "NHWC"}, r"layout is for heatmaps; leave it out for coordinates"),
    ],
)
def test_a_wrong_declaration_is_refused_with_what_fits(
    tmp_path: Path, name: str, changes: dict[str, Any], sentence: str
) -> None:
    path = folder(tmp_path, name, output=changes)
    with pytest.raises(ConfigError, match=sentence), load(path, slots=1):
        pass


def test_another_number_of_labels_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = folder(tmp_path, "flat", labels=[*LABELS, "mouth"])
    with pytest.raises(ConfigError, match=r"\[any, 6\], which may be 3 points of x and y, or 2 of x, y and confidence"):
        load(path, slots=1)
