"""mmdeploy's pipeline.json, deploy.json and detail.json, as `--dump-info` writes them."""

from typing import Any

import pytest

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.evidence import Document
from tta_server.onboarding.model_file import TensorInfo

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
LOAD = {"type": "LoadImageFromFile", "backend_args": None}
NORMALIZE = {"type": "Normalize", "to_rgb": True, "mean": MEAN, "std": STD}
END = [{"type": "DefaultFormatBundle"}, {"type": "Collect", "keys": ["img"], "meta_keys": ["img_shape"]}]
FIT = {"type": "Resize", "keep_ratio": True, "size": [1333, 800]}
SQUARE = {"type": "Resize", "keep_ratio": True, "size": [640, 640]}
PAD = {"type": "Pad", "size_divisor": 32}
GREY = {"type": "Pad", "size": [640, 640], "pad_val": {"img": [114, 114, 114]}}
EXTRA = {"type": "Pad", "logical_or_val": 127, "add_pix_val": 0}
"""As CenterNet's."""
BOXES = (TensorInfo("dets", FLOAT, (1, "n", 5)), TensorInfo("labels", "tensor(int64)", (1, "n")))
FREE = ("n", 3, "h", "w")
VALUES = {"color": "RGB", "scale": 1, "mean": MEAN, "std": STD, "resize_like": "opencv", "interpolation": "bilinear"}


def pipeline(*transforms: Any, component="ResizeBBox", module="mmdet", **params: Any) -> dict[str, Any]:
    pre = {"type": "Task", "module": "Transform", "name": "Preprocess", "input": ["img"], "output": ["prep_output"]}
    net = {"name": "m", "type": "Task", "module": "Net", "is_batched": False, "input_map": {"img": "input"}}
    post = {"type": "Task", "module": module, "name": "postprocess", "component": component, "params": params}
    tasks = [pre | {"transforms": [LOAD, *transforms, *END]}, net, post]
    return {"pipeline": {"input": ["img"], "output": ["post_output"], "tasks": tasks}}


def concluded(content: dict[str, Any], *outputs: TensorInfo, shape=FREE, detail: Any = None) -> Conclusion:
    documents = [Document("pipeline.json", content)]
    documents += [Document("detail.json", detail)] if detail else []
    return conclude(model_file(*(outputs or BOXES), shape=shape), Given(), documents)


@pytest.mark.parametrize(
    ("transforms", "shape", "expected"),
    [
        (
            (FIT, NORMALIZE, PAD),
            FREE,
            {"size": "free", "resize": 800, "max_long_side": 1333, "size_like": "mmdetection"}
            | {"multiple": 32, "pad": "zeros"},
        ),
        ((SQUARE, NORMALIZE), FREE, {"size": "free", "resize": 640, "max_long_side": 640}),
        (
            ({"type": "Resize", "keep_ratio": False, "size": [96, 64]}, NORMALIZE, PAD | {"size_divisor": 1}),
            (1, 3, 64, 96),
            {"size": [64, 96], "resize": "exact"},
        ),
        (
            ({"type": "Resize", "keep_ratio": False, "size": [64, 96]}, NORMALIZE),
            (1, 3, 64, 96),
            {"size": [64, 96], "resize": "exact"},
        ),
        (
            (SQUARE, GREY, NORMALIZE, PAD),
            (1, 3, 640, 640),
            {"size": [640, 640], "resize": "letterbox", "letterbox_anchor": "top_left", "letterbox_fill": 114}
            | {"rounding": "half_up"},
        ),
        (
            (SQUARE, NORMALIZE, {"type": "Pad", "pad_to_square": True}),
            (1, 3, 640, 640),
            {"resize": "letterbox", "letterbox_anchor": "top_left", "letterbox_fill": "zeros"},
        ),
        (
            ({"type": "LetterResize", "scale": [640, 640], "pad_val": {"img": 114}}, NORMALIZE),
            (1, 3, 640, 640),
            {"resize": "letterbox", "letterbox_anchor": "center", "letterbox_fill": 114, "rounding": "half_up"},
        ),
        (
            ({"type": "LetterResize", "scale": 640, "stretch_only": True}, NORMALIZE),
            (1, 3, 640, 640),
            {"size": [640, 640], "resize": "exact"},
        ),
        (
            ({"type": "Resize", "size": [256, -1], "keep_ratio": True}, {"type": "CenterCrop", "crop_size": 224}),
            FREE,
            {"size": [224, 224], "resize": 256, "color": "BGR", "mean": [0], "std": [1]},
        ),
        (
            ({"type": "Resize", "size": 256}, {"type": "CenterCrop", "crop_size": [192, 224]}, NORMALIZE),
            FREE,
            {"size": [192, 224], "resize": "exact", "crop_from": [256, 256]},
        ),
        (
            ({"type": "Resize", "size": 64, "backend": "pillow", "interpolation": "bicubic"}, NORMALIZE),
            FREE,
            {"resize_like": "pillow", "interpolation": "bicubic"},
        ),
        (({"type": "Resize", "size": 64}, NORMALIZE | {"to_rgb": False}), FREE, {"color": "BGR"}),
    ],
)
def test_an_input(transforms, shape, expected: dict[str, Any]) -> None:
    found = concluded(pipeline(*transforms), shape=shape)
    assert not found.refusals
    expected = VALUES | expected
    assert {key: values(found, "input.").get(key) for key in expected} == expected


def test_what_is_noted() -> None:
    letter = {"type": "LetterResize", "scale": 640, "allow_scale_up": False}
    masks = TensorInfo("masks", FLOAT, (1, "n", 28, 28))
    found = concluded(pipeline(letter, NORMALIZE), *BOXES, masks)
    assert {note.partition(": ")[2] for note in found.notes} >= {
        "postprocess component ResizeBBox: the file's masks of single objects are left out",
        "images smaller than the input are enlarged here, but not by mmdeploy (allow_scale_up is false)",
    }


def test_images_that_are_loaded_otherwise() -> None:
    content = pipeline({"type": "Resize", "size": 64}, NORMALIZE)
    transforms = content["pipeline"]["tasks"][0]["transforms"]
    transforms[0] = LOAD | {"channel_order": "rgb"}
    assert values(concluded(content))["input.color"] == "BGR"
    transforms[0] = LOAD | {"color_type": "grayscale"}
    assert values(concluded(content))["input.color"] == "grey"


def test_a_detector() -> None:
    found = concluded(pipeline(FIT, NORMALIZE, PAD, score_thr=0.05, nms={"type": "nms", "iou_threshold": 0.5}))
    assert values(found)["task"] == "detection"
    assert values(found, "output.") | {"head": "mmdeploy", "min_score": 0.05} == values(found, "output.")
    assert "labels" in {choice.key for choice in found.choices}
    assert values(concluded(pipeline(FIT, NORMALIZE, PAD, conf_thr=0.1)))["output.min_score"] == 0.1


@pytest.mark.parametrize(
    ("component", "task"),
    [("LinearClsHead", "classification"), ("MultiLabelLinearClsHead", "multilabel"), ("CSRAClsHead", "multilabel")],
)
def test_a_classifier(component: str, task: str) -> None:
    crop = {"type": "Resize", "size": [256, -1], "keep_ratio": True}, {"type": "CenterCrop", "crop_size": 224}
    found = concluded(pipeline(*crop, NORMALIZE, component=component, module="mmpretrain", topk=5), LOGITS)
    assert (values(found)["task"], values(found)["output.kind"]) == (task, "probabilities")
    assert [choice.key for choice in found.choices] == ["labels"]


MAP = TensorInfo("output", FLOAT, (1, 19, 64, 64))
CLASSES = TensorInfo("output", "tensor(int64)", (1, 1, 64, 64))


@pytest.mark.parametrize(
    ("output", "params", "detail", "expected"),
    [
        (CLASSES, {}, None, {"kind": "classes"}),
        (CLASSES, {"with_argmax": True}, None, {"kind": "classes"}),
        (MAP, {"with_argmax": False}, None, {"multilabel": False}),
        (MAP, {}, {"codebase": {"task": "Segmentation"}, "codebase_config": {"with_argmax": False}}, {}),
    ],
)
def test_a_segmenter(output: TensorInfo, params, detail, expected: dict[str, Any]) -> None:
    content = pipeline({"type": "Resize", "size": 64}, component="ResizeMask", module="mmseg", num_classes=19, **params)
    found = concluded(content, output, detail=detail)
    assert not found.refusals
    assert values(found)["task"] == "segmentation"
    assert values(found, "output.") | expected == values(found, "output.")
    assert ("output.kind" in values(found)) is ("kind" in expected)


@pytest.mark.parametrize(
    ("transforms", "sentence"),
    [
        (({"type": "TenCrop", "crop_size": 224},), "transform TenCrop can't be stated in tta.yaml; known are Resize"),
        (({"type": "Resize", "size": [96, 64]},), "may be [width, height] or [height, width], and the file's input"),
        (({"type": "Resize", "size": 60}, PAD), "images of [60, 60] are padded"),
        (({"type": "Resize", "size": [256, -1], "keep_ratio": True},), "the short side becomes 256 without a crop"),
        ((FIT, GREY, NORMALIZE), "Pad behind a Resize to [1333, 800] that keeps proportions"),
        ((FIT, PAD, NORMALIZE), "Pad to a multiple with other values than zeros behind Normalize"),
        ((FIT, FIT), "images are resized or cropped more than once"),
        ((FIT, EXTRA), "Pad behind a Resize to [1333, 800] that keeps proportions"),
        (({"type": "Resize", "size": 64}, EXTRA), "images of [64, 64] are padded"),
        (({"type": "Resize", "size": 256}, {"type": "CenterCrop", "crop_size": [192, 288]}), "to 256, under the crop"),
        (({"type": "Resize"},), "Resize has no size of two sides"),
        ((FIT, {"type": "CenterCrop", "crop_size": 224}), "CenterCrop behind a Resize to [1333, 800]"),
        (
            ({"type": "Resize", "size": [128, -1], "keep_ratio": True}, {"type": "CenterCrop", "crop_size": 224}),
            "images are resized to 128, under the crop of [224, 224]",
        ),
        (({"type": "LetterResize", "scale": 640, "use_mini_pad": True},), "LetterResize with use_mini_pad"),
        ((SQUARE, GREY | {"pad_val": [1, 2, 3]}, NORMALIZE), "pad_val [1, 2, 3] of Pad"),
        ((SQUARE, GREY | {"pad_val": float("inf")}, NORMALIZE), "pad_val inf of Pad"),
        (({"type": "Resize", "size": 64, "interpolation": "box"},), "interpolation 'box' can't be stated"),
        (({"type": "Resize", "size": "large"},), "pipeline.json: transform 1: size is 'large'"),
        ((7,), "pipeline.json: transform 1: type is missing"),
    ],
)
def test_preprocessing_that_is_refused(transforms, sentence: str) -> None:
    (refusal,) = concluded(pipeline(*transforms)).refusals
    assert sentence in refusal


def test_proportions_that_a_file_of_fixed_size_can_t_take() -> None:
    (refusal,) = concluded(pipeline(FIT, NORMALIZE, PAD), shape=(1, 3, 800, 1344)).refusals
    assert "keeps proportions, but the file's input is of fixed size" in refusal


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pipeline(component="ResizeInstanceMask"), "component ResizeInstanceMask: models of that kind are not served"),
        (pipeline(component="ResizeRBBox", module="mmrotate"), "ResizeRBBox: models of that kind are not served yet"),
        (pipeline(score_thr="high"), "pipeline.json: params: score_thr is 'high'; it should be a number"),
        (pipeline(component="ResizeMask", with_argmax=True), "with_argmax is True, but the file's output dets"),
    ],
)
def test_outputs_that_are_refused(content: dict[str, Any], sentence: str) -> None:
    outputs = [TensorInfo("dets", FLOAT, (1, 19, 8, 8))] if "ResizeMask" in str(content) else BOXES
    (refusal,) = concluded(content, *outputs).refusals
    assert sentence in refusal


def test_several_models_in_one_pipeline() -> None:
    content = pipeline(FIT)
    content["pipeline"]["tasks"].append(content["pipeline"]["tasks"][-1])
    (refusal,) = concluded(content).refusals
    assert refusal == "pipeline.json: has 2 postprocess steps; a model that is served has one"


def test_a_detector_without_its_outputs() -> None:
    (refusal,) = concluded(pipeline(), LOGITS).refusals
    assert "takes dets [N, M, 5] and labels [N, M], but the file's outputs are logits [1, 3]" in refusal


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("deploy.json", {"version": "1.3", "task": "Detector", "models": [], "customs": []}, "detection"),
        ("deploy.json", {"task": "Segmentor", "models": [], "customs": []}, "segmentation"),
        ("detail.json", {"codebase": {"task": "ObjectDetection"}, "codebase_config": {}}, "detection"),
    ],
)
def test_files_that_lie_alone(name: str, content: dict[str, Any], task: str) -> None:
    assert values(conclude(model_file(), Given(documents=[Document(name, content)]), []))["task"] == task


def test_files_alone_that_say_little() -> None:
    pose = {"task": "PoseDetector", "models": [], "customs": []}
    (refusal,) = conclude(model_file(), Given(), [Document("deploy.json", pose)]).refusals
    assert refusal == "deploy.json: task PoseDetector: models of that kind are not served yet"
    found = conclude(model_file(), Given(), [Document("deploy.json", pose | {"task": "Classifier"})])
    assert "task" not in found.facts
    assert "of one class or of several, which only pipeline.json states" in found.notes[0]


@pytest.mark.parametrize(
    "content",
    [{"pipeline": "a"}, {"pipeline": {"tasks": 3}}, {"pipeline": {"tasks": [{"name": "build"}]}}, {"customs": {}}],
)
def test_a_pipeline_of_something_else(content: dict[str, Any]) -> None:
    found = conclude(model_file(), Given(), [Document("pipeline.json", content)])
    assert not found.refusals
    assert found.facts.keys() == {"input.layout", "input.size"}
