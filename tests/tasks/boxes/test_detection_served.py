"""Detection from a model folder to an answer, with a real detector of bright rectangles."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import pictures
from tests.support.examples import times
from tests.support.onnx_models import GREY, detector, red_finder, write_model
from tta_server import LoadedModel, load
from tta_server.errors import BackendFailed, ConfigError, TooLarge, WrongDeclaration
from tta_server.views.geometry import Size

LABELS = ["red", "green", "blue"]
CONFIG = {
    "task": "detection",
    "labels": LABELS,
    "input": {"size": "free"},
    "output": {"boxes": "boxes", "scores": "scores", "labels": "labels", "min_score": 0.4},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
    "budget": {"default_ms": 10_000, "max_ms": 10_000, "min_views": "all"},
}
INPUTS = {
    "free": {"size": "free"},
    "free short": {"size": "free", "resize": 40, "multiple": 8},
    "letterbox": {"size": [48, 48], "resize": "letterbox", "letterbox_fill": 0},
    "top left": {
        "size": [48, 48],
        "resize": "letterbox",
        "rounding": "floor",
        "letterbox_anchor": "top_left",
        "letterbox_fill": [0, 0, 0],
    },
    "zeros": {"size": "free", "long_side": 48, "multiple": 32, "pad": "zeros"},
    "capped": {"size": "free", "resize": 40, "max_long_side": 48, "size_like": "detectron2", "resize_like": "opencv"},
    "exact": {"size": [40, 56], "resize": "exact"},
}


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """Takes images of any size as they are."""
    with load(write_model(tmp_path_factory.mktemp("models") / "bright", detector(), CONFIG), slots=2) as model:
        yield model


def lit(size: Size, *rectangles: tuple[int, tuple[int, int, int, int], int]) -> pictures.Pixels:
    """A black image with rectangles: channel, (left, top, right, bottom), brightness."""
    pixels = np.zeros((size.height, size.width, 3), np.uint8)
    for channel, (left, top, right, bottom), shade in rectangles:
        pixels[top:bottom, left:right, channel] = shade
    return pixels


def boxes_of(boxes: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(box["label"], box["score"], box["box"]) for box in boxes]


def expected(*rectangles: tuple[int, tuple[int, int, int, int], int]) -> list[tuple[object, ...]]:
    """The expected boxes of the rectangles, by falling score."""
    surest = sorted(rectangles, key=lambda rectangle: -rectangle[2])
    return [(LABELS[channel], round(shade / 255, 6), list(map(float, box))) for channel, box, shade in surest]


def at_most(limit: int) -> st.SearchStrategy[tuple[int, int]]:
    """From and to within a side."""
    return st.tuples(st.integers(0, limit - 1), st.integers(1, limit)).filter(lambda ends: ends[0] < ends[1])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Size, list[tuple[int, tuple[int, int, int, int], int]]]:
    """An image's size, and up to one rectangle of each colour, of shades that differ."""
    width, height = draw(st.integers(2, 90)), draw(st.integers(2, 90))
    rectangles = []
    for channel in draw(st.sets(st.integers(0, 2))):
        (left, right), (top, bottom) = draw(at_most(width)), draw(at_most(height))
        rectangles.append((channel, (left, top, right, bottom), 250 - 30 * channel))
    return Size(width, height), rectangles


# ---- laws ----


@settings(max_examples=times(25))
@given(scenes())
def test_every_view_and_the_merge_give_exactly_the_plain_view_s_boxes(bright: LoadedModel, scene: tuple) -> None:  # type: ignore[type-arg]
    size, rectangles = scene
    answer = bright.predict(lit(size, *rectangles), include="views")
    assert [boxes_of(view["boxes"]) for view in answer.receipt.views] == [expected(*rectangles)] * 8
    assert boxes_of(answer.prediction["boxes"]) == expected(*rectangles)
    for box in answer.prediction["boxes"]:
        assert (box["views"], box["of"], box["spread"]) == (8, 8, 0)


@pytest.mark.parametrize("entry", INPUTS.values(), ids=INPUTS)
def test_views_agree_with_the_plain_view_however_images_are_resized(tmp_path: Path, entry: dict[str, object]) -> None:
    """And the edges of the rectangles come back within a pixel of the input."""
    rectangles = [(0, (20, 30, 100, 60), 250), (1, (60, 20, 140, 90), 220), (2, (110, 40, 150, 80), 190)]
    with load(write_model(tmp_path / "bright", detector(), {**CONFIG, "input": entry}), slots=1) as model:
        for size in (Size(200, 120), Size(170, 230)):
            answer = model.predict(lit(size, *rectangles), include="views")
            plain, *others = [view["boxes"] for view in answer.receipt.views]
            for boxes in [*others, answer.prediction["boxes"]]:
                assert [box["label"] for box in boxes] == ["red", "green", "blue"]
                np.testing.assert_allclose(
                    [box["box"] for box in boxes], [box["box"] for box in plain], atol=2e-3, err_msg=str(size)
                )
            np.testing.assert_allclose([box["box"] for box in plain], [box for _, box, _ in rectangles], atol=6)


# ---- views that see a part ----

BESIDE = [(0, (10, 8, 40, 24), 250), (1, (50, 30, 90, 50), 220), (2, (20, 25, 45, 55), 190)]
"""In 100x60 pixels, whose top left quarter holds all of the red one, nothing of the green, and some of the blue."""


@pytest.mark.parametrize("merge", ["wbf", "nms", "soft_nms", "nmw"])
def test_a_crop_lowers_no_score_of_what_it_does_not_show(bright: LoadedModel, merge: str) -> None:
    crop = {"crop": {"fraction": 0.5, "anchor": "top_left"}}
    answer = bright.predict(lit(Size(100, 60), *BESIDE), policy=["identity", crop], merge=merge, include="views")
    assert len(answer.receipt.views[1]["boxes"]) == 1
    boxes = [box for box in answer.prediction["boxes"] if box["score"] > 0.4]  # soft_nms keeps boxes of decayed score
    assert [box["label"] for box in boxes] == LABELS
    np.testing.assert_allclose([box["score"] for box in boxes], [250 / 255, 220 / 255, 190 / 255], atol=1e-6)
    np.testing.assert_allclose([box["box"] for box in boxes], [box for _, box, _ in BESIDE], atol=0.5)
    assert [(box["views"], box["of"]) for box in boxes] == [(2, 2), (1, 1), (1, 1)]


def test_what_only_some_views_find_loses_score(bright: LoadedModel) -> None:
    """At a quarter of the brightness a view finds nothing: that is a third of the views."""
    policy = ["identity", "hflip", {"brightness": 0.25}]
    (box,) = bright.predict(lit(Size(100, 60), BESIDE[0]), policy=policy).prediction["boxes"]
    assert box["score"] == pytest.approx(250 / 255 * 2 / 3, abs=1e-6)
    assert (box["views"], box["of"], box["box"]) == (2, 3, [10, 8, 40, 24])


@pytest.mark.parametrize("angle", [-20, 5, 30])
def test_a_rotated_disc_s_box_stays_where_it_is(bright: LoadedModel, angle: float) -> None:
    y, x = np.mgrid[0:90, 0:120] + 0.5
    pixels = np.where(((x - 50) ** 2 + (y - 40) ** 2 < 20**2)[..., None], np.uint8([255, 0, 0]), np.uint8(0))
    answer = bright.predict(pixels, policy=["identity", {"rotate": angle}], include="views")
    for view in answer.receipt.views:
        np.testing.assert_allclose(view["boxes"][0]["box"], [30, 20, 70, 60], atol=1.5)


# ---- extreme images ----


def test_a_black_image_has_no_boxes(bright: LoadedModel) -> None:
    answer = bright.predict(lit(Size(30, 20)), include="views,uncertainty,drawing")
    drawing = answer.prediction.pop("drawing")
    assert answer.prediction == {"height": 20, "width": 30, "boxes": []}
    assert [view["boxes"] for view in answer.receipt.views] == [[]] * 8
    assert answer.receipt.uncertainty == {"vote_share": 0, "mean_spread": 0, "count_std": 0}
    assert answer.receipt.confidence is None
    assert not np.asarray(pictures.opened(base64.b64decode(drawing))).any()


def test_an_image_of_one_pixel(bright: LoadedModel) -> None:
    answer = bright.predict(np.full((1, 1, 3), 255, np.uint8), include="views,drawing")
    assert boxes_of(answer.prediction["boxes"]) == [(label, 1, [0, 0, 1, 1]) for label in LABELS]
    assert pictures.opened(base64.b64decode(answer.prediction["drawing"])).size == (1, 1)


def test_an_image_over_the_model_s_size_is_too_large(bright: LoadedModel) -> None:
    with pytest.raises(TooLarge, match="the image is 16000x20; this model's limit is 1024 pixels on the long side"):
        bright.predict(lit(Size(16_000, 20), (0, (4000, 0, 12_000, 20), 255)))


@pytest.mark.parametrize("kind", ["letterbox", "exact"])
@pytest.mark.parametrize("size", [Size(16_000, 20), Size(20, 16_000)])
def test_a_ribbon_is_found_where_it_is_resized(tmp_path: Path, kind: str, size: Size) -> None:
    with load(write_model(tmp_path / "bright", detector(), {**CONFIG, "input": INPUTS[kind]}), slots=1) as model:
        left, top = (size.width // 4, 0) if size.width > size.height else (0, size.height // 4)
        middle = (left, top, size.width - left, size.height - top)
        (box,) = model.predict(lit(size, (0, middle, 255))).prediction["boxes"]
        assert (box["views"], box["of"]) == (8, 8)
        np.testing.assert_allclose(box["box"], middle, atol=max(size) / 40)


# ---- drawing and uncertainty ----


def test_a_drawing_shows_the_boxes_and_leaves_the_rest(bright: LoadedModel) -> None:
    pixels = lit(Size(300, 200), (0, (100, 80, 220, 160), 255))
    drawing = bright.predict(pixels, include=["drawing"]).prediction["drawing"]
    painted = np.asarray(pictures.opened(base64.b64decode(drawing)))
    assert painted.shape == pixels.shape
    y, x = np.nonzero((painted != pixels).any(axis=2))
    assert {100, 219} <= set(x.tolist())
    assert 159 in y
    assert (x.min(), y.max()) == (100, 159)
    assert y.min() >= 80 - 20  # the label is above
    inside = painted[100:158, 103:217]
    assert (inside == [255, 0, 0]).all()


def test_uncertainty_is_that_of_the_views(bright: LoadedModel) -> None:
    """Of three views one does not find the only box: numbers of boxes 1, 1, 0 have a deviation of 3^-1/2."""
    policy = ["identity", "hflip", {"brightness": 0.25}]
    answer = bright.predict(lit(Size(100, 60), BESIDE[0]), policy=policy, include="uncertainty")
    assert answer.receipt.uncertainty == {
        "vote_share": pytest.approx(2 / 3, abs=1e-6),
        "mean_spread": 0,
        "count_std": pytest.approx(3**-0.5, abs=1e-6),
    }


# ---- NaN ----


def test_views_with_nan_are_dropped(bright: LoadedModel) -> None:
    """Grey in the top right corner is first in the mirror image and in the quarter turn."""
    pixels = lit(Size(100, 60), *BESIDE)
    pixels[0, -1, 0] = GREY
    answer = bright.predict(pixels, min_views=1, include="views")
    assert answer.receipt.dropped == 2
    assert [view["name"] for view in answer.receipt.views] == [
        "plain",
        "vflip",
        "rot180",
        "rot270",
        "transpose",
        "antitranspose",
    ]
    assert boxes_of(answer.prediction["boxes"]) == expected(*BESIDE)
    assert [(box["views"], box["of"]) for box in answer.prediction["boxes"]] == [(6, 6)] * 3


def test_nan_in_a_mandatory_view_fails(bright: LoadedModel) -> None:
    pixels = lit(Size(100, 60), *BESIDE)
    pixels[0, 0, 0] = GREY
    for options in ({"min_views": 1}, {"min_views": "all"}, {"policy": "plain"}):
        with pytest.raises(BackendFailed):
            bright.predict(pixels, **options)


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": ["red", "green"]}, "numbered 0 to 1, but the model gives class numbers 0 to 2"),
        ({"output": {"first_label": 1}}, "numbered 1 to 3, but the model gives class numbers 0 to 2"),
        ({"output": {"units": "normalized"}}, "output.units is normalized, but the model gives boxes up to"),
        ({"output": {"boxes": "bbox"}}, "output.boxes is 'bbox'; the model file has boxes, scores, labels"),
        (
            {"output": {"boxes": "scores"}},
            r"detection with 3 labels needs an output scores of shape \[N, M, 4\]; the model gives \[any, 3\]",
        ),
        (
            {"output": {"labels": None}},
            r"detection with 3 labels needs an output scores of shape \[N, M, 3\]; the model gives \[any, 3\]",
        ),
        (
            {"output": {"nms": 2}},
            "tta.yaml: output: nms takes a number of at least 0 and under 1, not 2",
        ),
        ({"output": {"anchors": 3}}, "unknown key output.anchors; known: boxes, scores, labels, rows, "),
        ({"merge": "mean"}, "merge is 'mean'; allowed for this task: wbf, nms, soft_nms, nmw"),
        ({"input": {"size": [48, 48], "resize": 64}}, "a centre crop hides the image's border from"),
        ({"stop": "certain"}, "stop certain is not available for detection; available: all"),
    ],
)
def test_a_model_folder_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    output = changes.get("output")
    changed = {**changes, "output": {**CONFIG["output"], **output}} if isinstance(output, dict) else changes
    folder = write_model(tmp_path / "bright", detector(), {**CONFIG, "policy": "plain", **changed})
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(folder, slots=1)
    assert "\n" not in str(caught.value)


# ---- declarations that an answer shows to be wrong ----

RED = np.full((64, 64, 3), (255, 0, 0), np.uint8)


def finder(tmp_path: Path, box: list[float], label: int, **config: object) -> Path:
    """A folder with a model that finds one box, of score 0.9, in red images only: in none of the test images."""
    output = {**CONFIG["output"], **config.pop("output", {})}  # type: ignore[dict-item]
    made = red_finder(box, label)
    return write_model(
        tmp_path / "red", made, {**CONFIG, "input": {"size": [64, 64]}, "policy": "flips", "output": output, **config}
    )


@pytest.mark.parametrize(
    ("box", "label", "output", "sentence"),
    [
        ([10, 10, 30, 30], 3, {}, "but the model gives class number 3; set output.first_label: 1 if"),
        ([40, 40, 10, 12], 1, {}, "1 of 1 boxes end before they begin; set output.format: xywh or cxcywh"),
        ([10, 10, 30, 30], 1, {"units": "normalized"}, "the model gives boxes up to 30; for pixels of the input set"),
        ([0.2, 0.2, 0.5, 0.5], 1, {}, "the model's boxes end at 0.5; for fractions of the input's size set"),
    ],
)
def test_what_only_an_answer_shows_is_refused_then(
    tmp_path: Path, box: list[float], label: int, output: dict[str, object], sentence: str
) -> None:
    with load(finder(tmp_path, box, label, output=output), slots=1) as model:
        assert model.predict(RED // 2).prediction["boxes"] == []
        with pytest.raises(WrongDeclaration, match=sentence) as caught:
            model.predict(RED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("box", "label", "output"),
    [
        ([10, 10, 30, 30], 2, {}),
        ([10, 10, 30, 30], 3, {"first_label": 1}),
        ([10, 10, 20, 20], 1, {"format": "xywh"}),
        ([10 / 64, 10 / 64, 30 / 64, 30 / 64], 1, {"units": "normalized"}),
    ],
)
def test_the_same_answers_rightly_declared_are_given(
    tmp_path: Path, box: list[float], label: int, output: dict[str, object]
) -> None:
    with load(finder(tmp_path, box, label, output=output, policy="plain"), slots=1) as model:
        answer = model.predict(RED)
    assert [found["box"] for found in answer.prediction["boxes"]] == [[10, 10, 30, 30]]
    assert answer.receipt.warnings == ()


def test_a_check_that_is_off_lets_a_wrong_declaration_through(tmp_path: Path) -> None:
    with load(finder(tmp_path, [10, 10, 30, 30], 3, checks={"boxes.classes": False}), slots=1) as model:
        assert model.predict(RED).prediction["boxes"] == []
