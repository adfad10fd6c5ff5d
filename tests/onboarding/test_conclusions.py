"""Which source counts, what is said of the others, and that no content of a file is a crash."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exports import TIMM, VIT_CONFIG, VIT_PROCESSOR, YOLO
from tests.support.model_files import FLOAT, model_file
from tta_server.errors import ConfigError
from tta_server.onboarding.conclusions import FLAG, Conclusion, Given, conclude
from tta_server.onboarding.draft import draft
from tta_server.onboarding.evidence import Document, Fact
from tta_server.onboarding.model_file import TensorInfo


def value(found: Conclusion, key: str) -> Any:
    return found.facts[key].value


def test_the_strongest_source_counts() -> None:
    """Flags, files that were named, metadata, files beside, shapes."""
    beside = Document("labels.txt", ["e", "f", "g"])
    named = Document("names.txt", ["c", "d", "e"])
    metadata = {"tta.yaml": "labels: [b, c, d]"}
    flag = Fact("labels", ["a", "b", "c"], FLAG)
    assert value(conclude(model_file(), Given(), [beside]), "labels") == ["e", "f", "g"]
    file = model_file(**metadata)
    assert value(conclude(file, Given(), [beside]), "labels") == ["b", "c", "d"]
    assert value(conclude(file, Given(documents=[named]), [beside]), "labels") == ["c", "d", "e"]
    assert value(conclude(file, Given([flag], [named]), [beside]), "labels") == ["a", "b", "c"]


def test_what_is_assumed_of_a_stated_letterbox_is_noted_and_gives_way_to_what_is_found_later() -> None:
    file = model_file()
    found = conclude(file, Given([Fact("input.resize", "letterbox", FLAG)]), [])
    assert value(found, "input.letterbox_anchor") == "center"
    (note,) = [note for note in found.notes if note.startswith("nothing states")]
    assert note.endswith("input.letterbox_anchor, input.rounding; assumed: pillow, bilinear, center, round")
    found.extend([Fact("output.head", "yolox", "measured")], file)
    assert value(found, "input.letterbox_anchor") == "top_left"
    assert value(found, "input.resize_like") == "opencv"
    assert not [note for note in found.notes if note.startswith("nothing states")]


def test_the_nms_of_a_grid_that_is_not_known_to_be_yolov5_is_assumed_aloud() -> None:
    """A decoded YOLOX looks the same, and suppresses at 0.65."""
    file = model_file()
    for found in (
        conclude(file, Given([Fact("output.head", "yolov5", FLAG)]), []),
        conclude(file, Given([Fact("task", "detection", FLAG)]), []),
    ):
        found.extend([Fact("output.head", "yolov5", "measured: boxes lie at their cells")], file)
        assert value(found, "output.nms") == 0.45
        (note,) = [note for note in found.notes if "output.nms" in note]
        assert note == "nothing states output.nms; assumed: 0.45, YOLOv5's own; for a decoded YOLOX set 0.65"
    stated = conclude(file, Given([Fact("output.head", "yolov5", FLAG), Fact("output.nms", 0.65, FLAG)]), [])
    assert not [note for note in stated.notes if "output.nms" in note]
    known = conclude(file, Given(), [])
    known.extend([Fact("output.head", "yolov5", "YOLOv5: output output0 is [1, 25, 8]")], file)
    assert "output.nms" not in known.facts


def test_a_file_of_labels_counts_more_than_a_file_that_describes_the_model() -> None:
    given = Given(documents=[Document("config.json", VIT_CONFIG)], labels=[Document("names.txt", ["a", "b", "c"])])
    assert value(conclude(model_file(), given, []), "labels") == ["a", "b", "c"]


def test_what_is_overruled_is_noted_unless_by_a_flag() -> None:
    processor = Document("preprocessor_config.json", VIT_PROCESSOR | {"size": {"height": 9, "width": 9}})
    (note,) = conclude(model_file(), Given(), [processor]).notes
    assert note == (
        "input.size is [9, 9] (preprocessor_config.json: size), though it would be [8, 8] by another source (the "
        "file's input image is [1, 3, 8, 8])"
    )
    assert not conclude(model_file(), Given([Fact("input.size", [7, 7], FLAG)]), [processor]).notes


def test_a_flag_overrules_a_refusal_of_its_key() -> None:
    file = model_file(**(YOLO | {"task": "pose"}))
    assert "'pose'" in conclude(file, Given(), []).refusals[0]
    assert not conclude(file, Given([Fact("task", "detection", FLAG)]), []).refusals


def test_uint8_has_no_normalisation() -> None:
    documents = [Document("config.json", VIT_CONFIG), Document("preprocessor_config.json", VIT_PROCESSOR)]
    found = conclude(model_file(kind="tensor(uint8)"), Given(), documents)
    assert not {"input.scale", "input.mean", "input.std"} & found.facts.keys()
    assert "takes uint8, which is not normalised" in found.notes[-1]
    assert not found.choices


def test_an_interpolation_that_nothing_states_is_assumed_aloud() -> None:
    found = conclude(model_file(), Given([Fact("input.resize", "exact", FLAG)]), [])
    assert value(found, "input.interpolation") == "bilinear"
    assert "nothing states input.resize_like, input.interpolation; assumed: pillow, bilinear" in found.notes


def test_a_named_file_of_which_nothing_is_known() -> None:
    with pytest.raises(ConfigError, match=r"other\.json: nothing in this file is known; known are timm's"):
        conclude(model_file(), Given(documents=[Document("other.json", {"a": 1})]), [])
    assert conclude(model_file(), Given(), [Document("other.json", {"a": 1})]).choices


def test_a_file_of_a_named_folder_of_which_nothing_is_known_is_ignored_aloud() -> None:
    stray = [Document("processor_config.json", {"a": 1}), Document("config.json", {"b": 2})]
    found = conclude(model_file(), Given(documents=[stray[0], Document("config.json", VIT_CONFIG)]), [])
    assert value(found, "task") == "classification"
    assert "processor_config.json: nothing in this file is known; it is ignored" in found.notes
    with pytest.raises(ConfigError, match=r"processor_config\.json, config\.json: nothing in them is known; known are"):
        conclude(model_file(), Given(documents=stray), [])


def test_a_file_beside_that_is_broken_is_noted() -> None:
    found = conclude(model_file(), Given(), [Document("config.json", None, "config.json: is not valid JSON in line 1")])
    assert found.notes == ["config.json: is not valid JSON in line 1; it is ignored"]


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ((1, 3, 8, 8), {"input.layout": "NCHW", "input.size": [8, 8]}),
        (("n", 8, 9, 1), {"input.layout": "NHWC", "input.size": [8, 9], "input.color": "grey"}),
        (("n", 3, "h", "w"), {"input.layout": "NCHW"}),
        (("n", "c", "h", "w"), {}),
        ((1, 3, 8, 3), {}),
    ],
)
def test_what_shapes_say(shape, keys) -> None:
    found = conclude(model_file(shape=shape), Given(), [])
    assert {key: fact.value for key, fact in found.facts.items()} == keys


@pytest.mark.parametrize("content", [VIT_CONFIG, TIMM])
def test_a_description_of_another_framework_s_model(content: dict[str, Any]) -> None:
    """A config.json of PyTorch beside a file of TensorFlow: its preprocessing may be another."""
    file, document = model_file(shape=("n", 8, 8, 3)), Document("config.json", content)
    (refusal,) = conclude(file, Given(), [document]).refusals
    assert "take NCHW, but the file's input image is [n, 8, 8, 3]" in refusal
    stated = conclude(file, Given([Fact("input.layout", "NHWC", FLAG)]), [document])
    assert (stated.refusals, value(stated, "input.layout")) == ([], "NHWC")


def test_boxes_by_their_names() -> None:
    outputs = [TensorInfo(n, FLOAT, s) for n, s in (("boxes", (1, 9, 4)), ("scores", (1, 9)), ("labels", (1, 9)))]
    found = conclude(model_file(*outputs), Given(), [])
    assert value(found, "task") == "detection"
    assert {"output.format", "output.units", "output.kind", "output.nms"} <= {choice.key for choice in found.choices}


SOURCES = {"config.json": VIT_CONFIG, "preprocessor_config.json": VIT_PROCESSOR, "timm.json": TIMM}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["", "bicubic"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["height", "0", "x"]), inner),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """The content with other values for some keys, at the top or one level below."""
    found = json.loads(json.dumps(content))
    for key in draw(st.lists(st.sampled_from(list(found)), max_size=3)):
        inner = found[key]
        if isinstance(inner, dict) and inner and draw(st.booleans()):
            inner[draw(st.sampled_from(list(inner)))] = draw(JSON)
        else:
            found[key] = draw(JSON)
    return found


@settings(max_examples=300)
@given(st.sampled_from(list(SOURCES)).flatmap(lambda name: st.tuples(st.just(name), changed(SOURCES[name]))))
def test_no_document_is_a_crash(case) -> None:
    name, content = case
    draft(conclude(model_file(), Given(), [Document(name, content)]))


KINDS = [
    *[("SegformerForSemanticSegmentation", "segformer"), ("RTDetrForObjectDetection", "rt_detr")],
    *[("DetrForObjectDetection", "detr"), ("XForDepthEstimation", "x"), ("CLIPVisionModelWithProjection", "clip")],
]


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_other_architectures(architecture: str, kind: str) -> None:
    config = VIT_CONFIG | {"architectures": [architecture], "model_type": kind}
    outputs = [TensorInfo("logits", FLOAT, (1, 9, 3)), TensorInfo("pred_boxes", FLOAT, (1, 9, 4))]
    found = conclude(model_file(*outputs), Given(), [Document("config.json", config)])
    assert bool(found.refusals) == (kind == "x")
    heads = {"rt_detr": "rt_detr", "detr": "detr"}
    assert (found.facts["output.head"].value if "output.head" in found.facts else None) == heads.get(kind)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(list(YOLO)), st.text(max_size=9) | JSON.map(repr)), st.booleans())
def test_no_metadata_is_a_crash(metadata, old: bool) -> None:
    found = YOLO | metadata
    if old:
        del found["task"]
    outputs = TensorInfo("output0", FLOAT, (1, 7, "n"))
    draft(conclude(model_file(outputs, **found), Given(), []))


@given(st.text(max_size=40) | JSON.map(json.dumps))
def test_no_embedded_text_is_a_crash(text: str) -> None:
    draft(conclude(model_file(**{"tta.yaml": text}), Given(), []))


def test_what_is_allowed_depends_on_what_is_known() -> None:
    def allowed(*facts: tuple[str, Any]) -> dict[str, str]:
        stated = [Fact(key, value, FLAG) for key, value in facts]
        return {choice.key: choice.allowed for choice in conclude(model_file(), Given(stated), []).choices}

    assert allowed(("input.size", "free"))["input.resize"] == "none | a number, the short side's length"
    assert allowed(("task", "segmentation"))["input.resize"] == "exact | letterbox"
    assert "number" in allowed(("task", "classification"))["input.resize"]
    assert "output.units" in allowed(("task", "keypoints"), ("output.kind", "coordinates"))
    assert "output.units" not in allowed(("task", "keypoints"), ("output.kind", "heatmaps"))
    assert "output.holds" in allowed(("task", "detection"), ("output.rows", "logits"))
    assert "labels" not in allowed(("task", "embedding"))
