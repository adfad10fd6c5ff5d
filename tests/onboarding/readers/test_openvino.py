"""OpenVINO's model_info: keys as Training Extensions and Model API write them."""

from typing import Any

import pytest

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.draft import draft
from tta_server.onboarding.model_file import TensorInfo

OTX = {
    "model_type": "Classification",
    "task_type": "classification",
    "labels": "red dark_green blue",
    "label_info": '{"label_names": ["red", "dark green", "blue"]}',
    "mean_values": "123.675 116.28 103.53",
    "scale_values": "58.395 57.12 57.375",
    "resize_type": "standard",
    "pad_value": "0",
    "reverse_input_channels": "False",
    "multilabel": "False",
    "hierarchical": "False",
    "confidence_threshold": "None",
}
"""As Training Extensions 2 exports a classifier."""
MAPS = TensorInfo("preds", FLOAT, (1, 3, 8, 8))
BOXES = (TensorInfo("boxes", FLOAT, (1, "n", 5)), TensorInfo("labels", "tensor(int64)", (1, "n")))


def concluded(*outputs: TensorInfo, shape=(1, 3, 8, 8), **changes: str | None) -> Conclusion:
    stated = {f"model_info {key}": value for key, value in (OTX | changes).items() if value is not None}
    return conclude(model_file(*(outputs or (LOGITS,)), shape=shape, **stated), Given(), [])


def test_a_classifier() -> None:
    found = concluded()
    assert not found.refusals
    assert {key[6:]: fact.value for key, fact in found.facts.items() if key.startswith("input.")} == {
        "layout": "NCHW",
        "size": [8, 8],
        "resize": "exact",
        "resize_like": "opencv",
        "interpolation": "bilinear",
        "color": "RGB",
        "scale": 1,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
    } | {
        key: values(found)[key] for key in values(found) if not key.startswith(("input.", "output.", "task", "labels"))
    }
    assert (values(found)["task"], values(found)["labels"]) == ("classification", ["red", "dark_green", "blue"])
    assert [choice.key for choice in found.choices] == ["output.kind"]
    assert "Model API tells logits from probabilities by the values of each run" in found.notes[0]


def test_several_labels() -> None:
    found = values(concluded(multilabel="True", confidence_threshold="0.4"))
    assert (found["task"], found["output.kind"], found["output.threshold"]) == ("multilabel", "logits", 0.4)


def test_outputs_that_explain_are_left_out() -> None:
    more = [TensorInfo(name, FLOAT, (1, 3)) for name in ("saliency_map", "feature_vector")]
    assert values(concluded(*more, LOGITS))["output.name"] == "logits"


def test_a_class_more_than_names() -> None:
    """Model API puts one in front."""
    assert values(concluded(labels="green blue"))["labels"] == ["other", "green", "blue"]
    found = values(concluded(MAPS, model_type="Segmentation", labels="green blue"))
    assert found["labels"] == ["background", "green", "blue"]


@pytest.mark.parametrize(
    ("output", "changes", "expected"),
    [
        (MAPS, {}, {"kind": "probabilities", "multilabel": False}),
        (MAPS, {"label_info": None}, {"multilabel": False}),
        (TensorInfo("y", FLOAT, (1, 8, 8)), {}, {"kind": "classes"}),
        (TensorInfo("y", FLOAT, (1, 1, 8, 8)), {}, {"kind": "classes"}),
    ],
)
def test_a_segmenter(output: TensorInfo, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = concluded(output, model_type="Segmentation", **changes)
    assert values(found, "output.") == expected | values(found, "output.")
    assert ("output.kind" in values(found)) is ("kind" in expected)
    assert values(found)["task"] == "segmentation"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (BOXES, {"head": "mmdeploy", "boxes": "boxes", "labels": "labels"}),
        ([TensorInfo("d", FLOAT, (1, 1, 100, 7))], {"head": "openvino_ssd", "first_label": 0}),
        (
            [TensorInfo(n, FLOAT, s) for n, s in (("bboxes", (1, 9, 4)), ("scores", (1, 9)), ("labels", (1, 9)))],
            {"boxes": "bboxes", "scores": "scores", "labels": "labels", "format": "xyxy", "units": "normalized"},
        ),
    ],
)
def test_outputs_of_a_detector(outputs: list[TensorInfo], expected: dict[str, Any]) -> None:
    found = concluded(*outputs, model_type="ssd", confidence_threshold="0.35", iou_threshold="0.5")
    assert not found.refusals
    output = values(found, "output.")
    assert output == output | expected | {"min_score": 0.35, "nms": None}
    assert values(concluded(*outputs, model_type="SSD", nms_execute="True", iou_threshold="0.6"))["output.nms"] == 0.6


@pytest.mark.parametrize("kind", ["YOLOv5", "YOLOv8", "YOLO11"])
def test_defaults_of_yolo(kind: str) -> None:
    """Those of Model API's wrapper, where the file states nothing."""
    found = conclude(
        model_file(
            TensorInfo("output0", FLOAT, (1, 6, 84)),
            **{"model_info model_type": kind, "model_info labels": "a b", "unrelated": "x"},
        ),
        Given(),
        [],
    )
    assert values(found, "output.") | {"head": "yolov8", "min_score": 0.25, "nms": 0.7} == values(found, "output.")
    stated = {"resize": "letterbox", "letterbox_anchor": "center", "letterbox_fill": 114, "color": "RGB"}
    stated |= {"scale": 1, "mean": [0], "std": [255]}
    assert values(found, "input.") | stated == values(found, "input.")


def test_a_grid_of_yolox() -> None:
    """Its wrapper resizes in its own way, whatever resize_type says."""
    found = concluded(TensorInfo("y", FLOAT, (1, 84, 8)), model_type="YOLOX", mean_values="", scale_values="")
    assert values(found, "output.") | {"head": "yolox", "nms": 0.65, "min_score": 0.5} == values(found, "output.")
    stated = {"resize": "letterbox", "letterbox_anchor": "top_left", "letterbox_fill": 114, "mean": [0], "std": [1]}
    assert values(found, "input.") | stated == values(found, "input.")


def test_points() -> None:
    outputs = [TensorInfo(n, FLOAT, s) for n, s in (("out_x", (1, 3, 16)), ("out_y", (1, 3, 16)))]
    found = concluded(*outputs, model_type="keypoint_detection")
    expected = {"kind": "simcc", "x": "out_x", "y": "out_y", "split": 2}
    assert values(found, "output.") | expected == values(found, "output.")
    assert "from a softmax of 900 times the output" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reverse_input_channels": "True"}, {"color": "BGR"}),
        ({"resize_type": "fit_to_window_letterbox", "pad_value": "114"}, {"letterbox_fill": 114}),
        ({"resize_type": "fit_to_window_letterbox"}, {"letterbox_anchor": "center", "letterbox_fill": 0}),
        ({"resize_type": "fit_to_window"}, {"letterbox_anchor": "top_left", "letterbox_fill": 0}),
        ({"resize_type": "fit_to_window", "pad_value": "7"}, {"resize": "letterbox", "letterbox_fill": 7}),
        ({"resize_type": "crop"}, {"resize": "cover"}),
        ({"interpolation_mode": "CUBIC"}, {"interpolation": "bicubic"}),
        ({"intensity_mode": "scale_to_unit", "input_dtype": "u8"}, {"scale": 255}),
        ({"mean_values": "128", "scale_values": "64"}, {"mean": [128.0], "std": [64.0]}),
        ({"mean_values": "", "scale_values": "None", "pad_value": ""}, {"mean": [0], "std": [1]}),
    ],
)
def test_an_input(changes: dict[str, str], expected: dict[str, Any]) -> None:
    found = concluded(**changes)
    assert not found.refusals
    assert values(found, "input.") | expected == values(found, "input.")


@pytest.mark.parametrize("shape", [(1, 3, "h", "w"), (1, 3, "h", 8), (1, 3, 8, "w")])
def test_sizes_that_are_not_fixed_are_not_resized(shape: Any) -> None:
    found = values(concluded(shape=shape))
    assert (found["input.size"], found["input.resize"]) == ("free", "none")


def test_the_order_of_channels_is_known_of_training_extensions_only() -> None:
    found = concluded(label_info=None)
    assert "input.color" in {choice.key for choice in found.choices}
    assert any("not in which order programs give them; state input.color" in note for note in found.notes)
    assert values(concluded(label_info=None, shape=(1, 1, 8, 8)))["input.color"] == "grey"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model_type": "MaskRCNN"},
            "model_type is 'MaskRCNN': models of that type are not served yet; Classification",
        ),
        ({"hierarchical": "True"}, "hierarchical is True: groups of classes are not served yet"),
        ({"model_type": "ssd"}, "model_type is SSD, with the outputs logits [1, 3]: known are one output of 7 columns"),
        ({"model_type": "YOLO11"}, "model_type is YOLO11, which gives [N, 7, M], but the file's output is [1, 3]"),
        ({"model_type": "keypoint_detection"}, "which gives two outputs [N, J, 2 W] and [N, J, 2 H]"),
        ({"resize_type": "stretch"}, "resize_type is stretch; known are standard, fit_to_window"),
        ({"resize_type": "fit_to_window_letterbox", "pad_value": "300"}, "pad_value 300 can't be stated"),
        ({"embedded_processing": "True"}, "embedded_processing is True: the graph itself resizes"),
        ({"input_dtype": "u16"}, "input_dtype is u16 and intensity_mode none: known are u8"),
        ({"intensity_mode": "window"}, "intensity_mode window: known are u8"),
        ({"intensity_mode": "scale_to_unit", "intensity_max_value": "4095"}, "with scale_to_unit up to 255"),
        ({"scale_values": "1 0 1"}, "scale_values has 0; they should be over 0"),
        ({"interpolation_mode": "SINC"}, "interpolation_mode is 'SINC'; known are LINEAR"),
        ({"mean_values": "1 two 3"}, "metadata model_info: mean_values is 'two'; it should be a number"),
        ({"confidence_threshold": "2"}, "confidence_threshold is '2'; it should be a number"),
        ({"pad_value": "grey"}, "pad_value is 'grey'; it should be a whole number"),
    ],
)
def test_what_is_refused(changes: dict[str, str], sentence: str) -> None:
    (refusal,) = concluded(**changes).refusals
    assert sentence in refusal


def test_a_crop_to_a_size_that_is_not_square_is_refused() -> None:
    (refusal,) = concluded(shape=(1, 3, 8, 9), resize_type="crop").refusals
    assert "a crop to an input that is not square can't be stated" in refusal


def test_other_metadata_is_not_disturbed() -> None:
    assert not conclude(model_file(model_type="Segmentor", model_info="x"), Given(), []).facts.keys() - {
        "input.layout",
        "input.size",
    }
    draft(concluded())
