"""Each task end to end, as a Python program uses it: a model folder, an image, an answer."""

import json
import math

import numpy as np
import pytest

import tta_server
from tests.support.map_models import class_mapper, query_segmenter
from tests.support.onnx_models import classifier, embedder, heat_maps, pointer, regressor, segmenter, write_model
from tests.support.patterns import blob, centroid, noise
from tests.support.pictures import encoded, opened
from tests.support.references import MODELS
from tta_server.cli.contact_sheet import CELL, MARGIN, draw_sheet
from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.serving.cards import make_test_card
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.render.rendering import lines_of
from tta_server.views.geometry import Size

LABELS = ["red", "green", "blue"]
FREE = {"size": "free", "multiple": 4}
FIXED = {"size": [8, 8], "resize": "exact"}
EVERYTHING = {
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
    "limits": {"rotate": 45, "zoom": 3},
    "budget": {"default_ms": 30_000, "max_ms": 60_000, "min_views": 1},
}


def config(task, entry, output, **more):
    labels = {} if task == "embedding" else {"labels": LABELS}
    return {"task": task, **labels, "input": entry, "output": output, "policy": "plain", **EVERYTHING, **more}


HEAT_MAPS = {"kind": "heatmaps", "stride": 4, "pairs": []}
TINY = {
    "classification": (classifier(), config("classification", FIXED, {"kind": "probabilities"})),
    "multilabel": (classifier(), config("multilabel", FIXED, {"kind": "probabilities"})),
    "regression": (regressor(), config("regression", FIXED, {"kind": "values"})),
    "logarithms": (regressor(), config("regression", FIXED, {"kind": "log1p"})),
    "embedding": (embedder(), config("embedding", FIXED, {})),
    "segmentation": (segmenter(), config("segmentation", {"size": "free"}, {"kind": "probabilities"})),
    "masks": (segmenter(), config("segmentation", {"size": "free"}, {"kind": "probabilities", "multilabel": True})),
    "class numbers": (class_mapper(), config("segmentation", {"size": "free"}, {"kind": "classes"})),
    "queries": (query_segmenter(), config("segmentation", {"size": "free"}, {"kind": "queries"})),
    "heat maps": (heat_maps(), config("keypoints", FREE, HEAT_MAPS)),
    "letterboxed": (
        heat_maps(shape=("n", 3, 64, 64)),
        config("keypoints", {"size": [64, 64], "resize": "letterbox", "letterbox_fill": 0}, HEAT_MAPS),
    ),
    "top left": (
        heat_maps(shape=("n", 3, 64, 64)),
        config(
            "keypoints",
            {"size": [64, 64], "resize": "letterbox", "letterbox_anchor": "top_left", "letterbox_fill": "zeros"},
            HEAT_MAPS,
        ),
    ),
    "points": (
        pointer(),
        config("keypoints", FIXED, {"kind": "coordinates", "units": "normalized", "pairs": [["green", "blue"]]}),
    ),
}
ROTATED = ["identity", {"rotate": 10}, {"crop": {"fraction": 0.7, "anchor": "top_left"}}, {"crop": 0.8}]
POLICIES = {"d4": "d4", "rotated and cropped": ROTATED}

tasks = pytest.mark.parametrize("name", TINY)
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Loads each tiny model once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            folder = tmp_path_factory.mktemp("models") / name.replace(" ", "-")
            loaded[name] = tta_server.load(write_model(folder, *TINY[name]), slots=1)
        return loaded[name]

    yield load
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="module")
def bundled():
    """Loads each bundled model once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = tta_server.load(MODELS / name, slots=1)
        return loaded[name]

    yield load
    for model in loaded.values():
        model.close()


def as_json(answer):
    """What HTTP would answer, there and back: no NaN, nothing but JSON."""
    return json.loads(json.dumps(answer.to_dict(), allow_nan=False))


# ---- every task ----


@tasks
@policies
def test_every_answer_is_json(tiny, name, policy):
    model = tiny(name)
    for merge in model.model.task.merges:
        answer = model.predict(noise(Size(45, 31)), policy=policy, merge=merge, include=model.model.task.includes)
        body = as_json(answer)
        views = 8 if policy == "d4" else len(ROTATED)
        assert body["task"] == TINY[name][1]["task"]
        assert (len(body["receipt"]["views"]), body["receipt"]["dropped"]) == (views, 0)
        assert body["receipt"]["stop_reason"] == "all_views"
        assert body["receipt"]["merge"] == merge
        assert lines_of(answer.result, 5)


@tasks
def test_every_task_has_a_sheet(tiny, name):
    """A cell for each view, with lines of text, and one for the merge; two pictures where results can be painted."""
    model = tiny(name).model
    sheet = draw_sheet(model, encoded(noise(Size(45, 31))), json.dumps(ROTATED), None)
    paints = "drawing" in model.task.includes
    assert sheet.width == 5 * (CELL + MARGIN) + MARGIN
    assert sheet.height > (2 if paints else 1) * CELL * 31 / 45
    assert len(sheet.getcolors(1 << 24)) > 200


@tasks
def test_each_part_may_be_included_by_itself(tiny, name):
    model = tiny(name)
    plain = as_json(model.predict(noise(Size(45, 31)), policy="d4"))
    for asked in model.model.task.includes:
        body = as_json(model.predict(noise(Size(45, 31)), policy="d4", include=[asked]))
        assert {key: body["prediction"][key] for key in plain["prediction"]} == plain["prediction"]
        assert ("uncertainty" in body["receipt"]) == (asked == "uncertainty")
        assert ("drawing" in body["prediction"]) == (asked == "drawing")


@tasks
def test_uncertainty_is_there_only_if_included(tiny, name):
    model = tiny(name)
    assert "uncertainty" not in as_json(model.predict(noise(Size(45, 31)), policy="d4"))["receipt"]
    everything_else = [asked for asked in model.model.task.includes if asked != "uncertainty"]
    body = as_json(model.predict(noise(Size(45, 31)), policy="d4", include=everything_else))
    assert "uncertainty" not in body["receipt"]
    body = as_json(model.predict(noise(Size(45, 31)), policy="plain", include=["uncertainty"]))
    assert body["receipt"]["uncertainty"]


@tasks
def test_an_unknown_include_is_refused_naming_the_known_ones(tiny, name):
    with pytest.raises(InvalidInput, match=r"unknown include 'colour'; .* knows .*uncertainty"):
        tiny(name).predict(noise(Size(8, 8)), include=["colour"])


@tasks
@policies
@pytest.mark.parametrize("size", [Size(45, 31), Size(1, 1), Size(1, 37), Size(3, 2)], ids=str)
@pytest.mark.parametrize("light", [0, 255])
def test_flat_and_tiny_images_are_answered(tiny, name, policy, size, light):
    pixels = np.full((size.height, size.width, 3), light, np.uint8)
    model = tiny(name)
    body = as_json(model.predict(pixels, policy=policy, include=model.model.task.includes))
    assert (body["receipt"]["stop_reason"], body["receipt"]["dropped"]) == ("all_views", 0)
    assert body["receipt"]["confidence"] is None or 0 <= body["receipt"]["confidence"] <= 1


@tasks
def test_a_very_long_image_is_answered_or_too_large_in_one_sentence(tiny, name):
    """As a strip of a panorama; models of free size take up to 1024 pixels, unless they cut tiles."""
    model, strip = tiny(name), noise(Size(16_000, 20))
    free = model.model.preprocessing.size is None
    if free and not model.model.task.can_tile:
        with pytest.raises(TooLarge, match=r"^the image is 16000x20; this model's limit is 1024 pixels on the long"):
            model.predict(strip, policy="d4")
    else:
        body = as_json(model.predict(strip, policy="hflip", include=["uncertainty"]))
        assert (body["receipt"].get("tiles", 1) > 1) == free


@tasks
def test_the_warm_up_image_is_answered(tiny, name):
    model = tiny(name)
    assert as_json(model.predict(make_test_card(model.model), policy="d4"))["receipt"]["stop_reason"] == "all_views"


# ---- keypoints ----

SCENE = Size(92, 60)
PLACES = {"red": (21.3, 17.6), "green": (60.2, 40.1), "blue": (75.9, 21.4)}


def scene():
    """A hill of light in each channel."""
    return np.stack([blob(SCENE, place, 5) for place in PLACES.values()], axis=2)


@pytest.mark.parametrize("name", ["heat maps", "letterboxed"])
@pytest.mark.parametrize("merge", ["mean_heatmaps", "mean_coordinates"])
@pytest.mark.parametrize("policy", ["plain", "d4", ["identity", {"rotate": 10}, {"rotate": -25}], ROTATED], ids=str)
def test_heat_maps_find_hills_of_light(tiny, name, merge, policy):
    """Within half a cell of 4 pixels, or of 6 where 92 pixels become 64."""
    answer = tiny(name).predict(scene(), policy=policy, merge=merge)
    for point in answer.prediction["keypoints"]:
        assert math.dist((point["x"], point["y"]), PLACES[point["label"]]) < (2 if name == "heat maps" else 3)
        assert point["visible"]


def test_flips_of_heat_maps_agree(tiny):
    """The frame is a whole number of cells, so that each view has the same cells."""
    body = tiny("heat maps").predict(scene(), policy="d4", include=["uncertainty", "views"])
    plain = tiny("heat maps").predict(scene(), policy="plain").prediction["keypoints"]
    assert body.receipt.uncertainty["mean_spread"] == pytest.approx(0, abs=0.01)
    for point, alone in zip(body.prediction["keypoints"], plain, strict=True):
        assert (point["x"], point["y"]) == pytest.approx((alone["x"], alone["y"]), abs=0.01)
        assert (point["views"], alone["views"]) == (8, 1)


def test_in_a_black_image_no_point_is_visible(tiny):
    answer = tiny("heat maps").predict(np.zeros((60, 92, 3), np.uint8), policy="d4", include=["drawing"])
    assert not any(point["visible"] for point in answer.prediction["keypoints"])
    assert not np.asarray(from_base64(answer.prediction["drawing"])).any()


def test_points_of_a_pair_change_places_in_a_mirror(tiny):
    """The model gives the same for an image and its mirror image: red at (0.2, 0.2), green at 0.6 and blue at 0.8."""
    image = np.zeros((100, 100, 3), np.uint8) + np.array([51, 153, 204], np.uint8)
    views = tiny("points").predict(image, policy="hflip", include=["views"]).receipt.views
    np.testing.assert_allclose(views[0]["keypoints"], [[20, 20, 1], [60, 60, 1], [80, 80, 1]], atol=0.01)
    np.testing.assert_allclose(views[1]["keypoints"], [[80, 20, 1], [20, 80, 1], [40, 60, 1]], atol=0.01)


@pytest.mark.parametrize("policy", ["d4", ["identity", {"scale": 1.25}]], ids=str)
@pytest.mark.parametrize("name", ["heat maps", "segmentation", "masks"])
def test_cells_need_not_fill_the_input(tmp_path, name, policy):
    """A model of stride 4 without multiples of 4 leaves out the last pixels of 91x57."""
    config = {**TINY[name][1], "input": {"size": "free"}}
    with tta_server.load(write_model(tmp_path / "tiny", heat_maps(), config), slots=1) as model:
        receipt = as_json(model.predict(scene()[:57, :91], policy=policy))["receipt"]
    assert (receipt["stop_reason"], len(receipt["views"])) == ("all_views", receipt["planned"])


# ---- one view is the model itself ----


def test_values_are_the_means_of_the_channels(tiny):
    image = np.zeros((8, 8, 3), np.uint8) + np.array([51, 102, 255], np.uint8)
    values = tiny("regression").predict(image, policy="d4").prediction["values"]
    assert values == pytest.approx({"red": 0.2, "green": 0.4, "blue": 1}, abs=1e-6)
    counted = tiny("logarithms").predict(image, policy="d4").prediction["values"]
    assert counted == pytest.approx({name: math.expm1(value) for name, value in values.items()}, abs=1e-5)
    vector = tiny("embedding").predict(image, policy="d4").prediction["embedding"]
    assert vector == pytest.approx(np.array([0.2, 0.4, 1]) / math.hypot(0.2, 0.4, 1), abs=1e-6)
    several = tiny("multilabel").predict(image, policy="d4").prediction
    assert several["labels"] == ["blue"]
    assert [top["probability"] for top in several["top"]] == pytest.approx([1, 0.4, 0.2])


# ---- stop rules ----


def test_a_tolerance_stops_early_where_views_say_the_same(tiny):
    flat = np.full((40, 60, 3), 90, np.uint8)
    receipt = as_json(tiny("regression").predict(flat, policy="d4", stop={"tolerance": 0.001}))["receipt"]
    assert (receipt["stop"], receipt["stop_reason"]) == ({"tolerance": 0.001}, "precise")
    assert 2 <= len(receipt["views"]) <= receipt["planned"] == 8  # some may be in one batch


def test_a_tolerance_that_is_not_reached_takes_all_views(tiny):
    receipt = tiny("regression").predict(noise(Size(45, 31)), policy=ROTATED, stop={"tolerance": 1e-9}).receipt
    assert (receipt.stop_reason, len(receipt.views)) == ("all_views", len(ROTATED))


@pytest.mark.parametrize("merge", ["median", "trimmed_mean"])
def test_a_tolerance_is_refused_for_other_merges(tiny, merge):
    with pytest.raises(
        InvalidInput, match=f"stop .*tolerance.*: the standard error is that of merge mean, not of {merge}"
    ):
        tiny("regression").predict(noise(Size(9, 9)), merge=merge, stop={"tolerance": 1})


@tasks
def test_a_stop_rule_of_another_task_is_refused_naming_its_own(tiny, name):
    known = tiny(name).model.task.stops
    for word, stop in {"certain": "certain", "open": {"open": 0.1}, "tolerance": {"tolerance": 1}}.items():
        if word not in known:
            with pytest.raises(
                InvalidInput, match=f"stop {word} is not available for .*; available: {', '.join(known)}"
            ):
                tiny(name).predict(noise(Size(9, 9)), stop=stop)


@pytest.mark.parametrize("name", ["multilabel", "masks", "classification", "segmentation"])
def test_certain_stops_when_most_views_agree(tiny, name):
    """All views show one colour: after five of eight at 1 and 0, three can't change the answer."""
    blue = np.zeros((16, 16, 3), np.uint8) + np.array([0, 0, 255], np.uint8)
    receipt = tiny(name).predict(blue, policy="d4", stop="certain").receipt
    assert receipt.stop_reason == "certain"
    assert len(receipt.views) >= 5


# ---- refused at load ----


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        ("points", {"merge": "mean_heatmaps"}, "merge is 'mean_heatmaps'; allowed for this task: mean_coordinates"),
        ("points", {"labels": ["left", "right"]}, r"output.pairs names 'green', which is none of the labels"),
        (
            "points",
            {"labels": ["a"], "output": {"kind": "coordinates"}},
            r"which may be 3 points of x and y: state as m",
        ),
        (
            "points",
            {"output": {"kind": "coordinates", "units": "cm"}},
            "output.units is 'cm'; it should be 'pixels', 'normalized' or 'signed'",
        ),
        ("heat maps", {"output": {**HEAT_MAPS, "stride": 8}}, "output.stride is 8, but the model gives 64x64 cells"),
        (
            "heat maps",
            {"output": {"kind": "heatmap"}},
            "output.kind is 'heatmap'; it should be 'heatmaps', 'coordinates' or",
        ),
        ("heat maps", {"output": {"kind": "heatmaps", "strides": 4}}, "output.strides|unknown key"),
        ("heat maps", {"labels": ["left", "right", "x"], "output": {"kind": "heatmaps"}}, "output.pairs is missing"),
        (
            "heat maps",
            {"input": {"size": [64, 64], "resize": 80}},
            "so that a centre crop hides the image's border from",
        ),
        ("heat maps", {"stop": "certain"}, "stop: stop certain is not available for keypoints; available: all"),
        (
            "regression",
            {"merge": "median", "stop": {"tolerance": 1}},
            "the standard error is that of merge mean, not of",
        ),
        ("regression", {"labels": ["a"]}, r"regression with 1 labels needs an output values of shape \[N, 1\]"),
        ("embedding", {"labels": ["a"]}, "labels has 1 names; embedding takes none"),
        (
            "multilabel",
            {"output": {"kind": "logits", "threshold": 1}},
            "threshold takes a probability over 0 and under 1",
        ),
        ("multilabel", {"merge": "mean_logits", "stop": "certain"}, "merge mean_logits has no bound"),
    ],
)
def test_a_mistake_is_refused_at_load_in_one_sentence(tmp_path, model, changes, sentence):
    file, base = TINY[model]
    with pytest.raises(ConfigError, match=sentence) as caught:
        tta_server.load(write_model(tmp_path / "tiny", file, {**base, **changes}), slots=1)
    assert "\n" not in str(caught.value)


def test_pixels_stated_as_normalized_are_refused_at_load(tmp_path):
    file, base = TINY["points"]
    as_pixels = {**base, "input": {**FIXED, "scale": 1}}
    with pytest.raises(ConfigError, match=r"output.units is normalized, but the model gives coordinates up to"):
        tta_server.load(write_model(tmp_path / "tiny", file, as_pixels), slots=1)


# ---- the bundled models ----


@pytest.mark.parametrize("policy", [None, "plain", "d4"])
def test_the_mouse_is_where_it_was_drawn(bundled, policy):
    answer = bundled("mouse").predict(MODELS / "mouse" / "sample.jpg", policy=policy, budget_ms=30_000)
    found = {point["label"]: (point["x"], point["y"]) for point in answer.prediction["keypoints"]}
    assert math.dist(found["snout"], (384, 160)) < 8
    assert math.dist(found["leftear"], (366, 167)) < 15
    assert math.dist(found["rightear"], (381, 180)) < 15
    assert math.dist(found["tailbase"], (317, 270)) < 15
    assert all(point["visible"] for point in answer.prediction["keypoints"])


def test_a_mirrored_mouse_has_its_ears_on_the_right_sides(bundled):
    """The mirror image's left ear is on the other side; x goes to 640 - x."""
    pixels = np.asarray(opened((MODELS / "mouse" / "sample.jpg").read_bytes()).convert("RGB"))
    model = bundled("mouse")
    straight = model.predict(pixels, policy="d4", budget_ms=30_000).prediction["keypoints"]
    mirrored = model.predict(pixels[:, ::-1], policy="d4", budget_ms=30_000).prediction["keypoints"]
    for point, other in zip(straight, [mirrored[i] for i in (0, 2, 1, 3)], strict=True):
        assert math.dist((point["x"], point["y"]), (640 - other["x"], other["y"])) < 1.5


def test_a_mouse_may_be_drawn_on(bundled):
    answer = bundled("mouse").predict(MODELS / "mouse" / "sample.jpg", include=["drawing"], budget_ms=30_000)
    drawing = np.asarray(from_base64(answer.prediction["drawing"]))
    pixels = np.asarray(opened((MODELS / "mouse" / "sample.jpg").read_bytes()).convert("RGB"))
    assert drawing.shape == pixels.shape
    changed = np.abs(drawing.astype(int) - pixels).max(axis=2) > 40
    assert 0.001 < changed.mean() < 0.1
    for point in answer.prediction["keypoints"]:
        assert changed[round(point["y"]), round(point["x"])]
    middle = centroid(changed)[0]
    assert math.dist(middle, (380, 200)) < 80


def test_nuclei_are_counted(bundled):
    model = bundled("nuclei-count")
    answer = model.predict(MODELS / "nuclei-count" / "sample.png", include=["uncertainty", "views"], budget_ms=30_000)
    body = as_json(answer)
    assert body["prediction"]["values"]["nuclei"] == pytest.approx(44, abs=2)
    spread = body["receipt"]["uncertainty"]["by_value"]["nuclei"]
    counts = [view["values"]["nuclei"] for view in body["receipt"]["views"]]
    assert spread["std"] == pytest.approx(np.std(counts, ddof=1), abs=1e-4)
    assert (spread["least"], spread["most"]) == (min(counts), max(counts))
    assert len(counts) == 8


def test_counting_ends_early_within_a_tolerance(bundled):
    model, sample = bundled("nuclei-count"), MODELS / "nuclei-count" / "sample.png"
    receipt = model.predict(sample, stop={"tolerance": 5}, budget_ms=30_000).receipt
    assert receipt.stop_reason == "precise"
    assert 2 <= len(receipt.views) < 8
    assert model.predict(sample, stop={"tolerance": 1e-6}, budget_ms=30_000).receipt.stop_reason == "all_views"


@pytest.mark.parametrize("name", ["mouse", "nuclei-count"])
def test_bundled_models_answer_black_and_tiny_images(bundled, name):
    model = bundled(name)
    for shape in [(480, 640, 3), (1, 1, 3)]:
        black = np.zeros(shape, np.uint8)
        as_json(model.predict(black, policy="d4", include=model.model.task.includes, budget_ms=30_000))


def test_a_strip_is_too_large_for_the_mouse_and_can_be_counted(bundled):
    strip = noise(Size(16_000, 20))
    with pytest.raises(
        TooLarge, match=r"^the image is 16000x20 and would be 192000x240 after resizing; the limits are "
    ):
        bundled("mouse").predict(strip)
    as_json(bundled("nuclei-count").predict(strip, budget_ms=30_000))
