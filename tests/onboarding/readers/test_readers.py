"""No content of a file of another tool is a crash, and what is refused is one sentence."""

import copy
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.model_files import FLOAT, LOGITS, model_file
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.draft import draft
from tta_server.onboarding.evidence import Document
from tta_server.onboarding.model_file import TensorInfo
from tta_server.onboarding.readers.torchvision_weights import KEY
from tta_server.onboarding.readers.triton import LABELS, parse_config

RESIZES = [
    {"type": "Resize", "keep_ratio": True, "size": [1333, 800]},
    {"type": "LetterResize", "scale": [640, 640], "pad_val": {"img": 114}, "allow_scale_up": False},
    {"type": "CenterCrop", "crop_size": [8, 8]},
    {"type": "Pad", "size": [640, 640], "size_divisor": 32, "pad_val": {"img": [1, 1, 1]}},
    {"type": "Normalize", "mean": [1, 2, 3], "std": [1, 2, 3], "to_rgb": True},
]
NETWORK = {"training_input_size": {"height": 8, "width": 8}, "resize_mode": "letterbox", "scaling_factor": 255}
NETWORK |= {"input_channels": 3, "color_mode": "rgb", "normalization": [[1, 2, 3], [1, 2, 3]]}
POST = {"type": "nms", "fused": True, "nms_parameters": {"iou_threshold": 0.5}}
TRITON = 'max_batch_size: 8 input { name: "image" dims: [3, 8, 8] } output { name: "logits" label_filename: "a.txt" }'
SOURCES: dict[str, dict[str, Any]] = {
    "pipeline.json": {
        "pipeline": {
            "tasks": [
                {"module": "Transform", "transforms": RESIZES},
                {"module": "mmdet", "name": "postprocess", "component": "ResizeBBox", "params": {"score_thr": 0.1}},
            ]
        }
    },
    "detail.json": {"codebase": {"task": "Segmentation"}, "codebase_config": {"with_argmax": True}},
    "deploy.json": {"task": "Detector", "models": [{}], "customs": []},
    "model_config.json": {"model_architecture": "rfdetr", "task_type": "object-detection"},
    "inference_config.json": {"network_input": NETWORK, "post_processing": POST, "class_names_operations": [{}]},
    "environment.json": {"PREPROCESSING": {"resize": {"width": 8, "height": 8}}, "CLASS_MAP": {"0": "a"}},
    "config.pbtxt": parse_config(TRITON) | {LABELS: {"a.txt": ["x", "y", "z"]}},
    "torchvision:X": {KEY: "ImageClassification", "categories": ["a"], "crop_size": [8], "resize_size": [9]},
}
OPENVINO = {"model_type": "SSD", "labels": "a b", "mean_values": "1 2 3", "scale_values": "1 2 3", "pad_value": "7"}
OPENVINO |= {"resize_type": "fit_to_window", "reverse_input_channels": "True", "confidence_threshold": "0.5"}
FILES = [
    model_file(LOGITS),
    model_file(TensorInfo("dets", FLOAT, (1, 9, 5)), TensorInfo("labels", FLOAT, (1, 9, 2)), shape=("n", 3, "h", "w")),
    model_file(TensorInfo("y", FLOAT, (None, None, None, None)), shape=("n", 8, 9, 3)),
    model_file(TensorInfo("y", "tensor(int64)", ()), TensorInfo("z", FLOAT, ("m",)), shape=("n", "c", 8, 8)),
]
WORDS = ["", "rgb", "stretch", "ResizeMask", "LinearClsHead", "mmcls", "yolov8", "classification", "Pad", "[", "-1"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["height", "0", "type"]), inner),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """The content with another value somewhere."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 3)) == 0:
        return draw(JSON)
    found = copy.copy(content)
    key = draw(st.sampled_from(list(content) if isinstance(content, dict) else range(len(content))))
    found[key] = draw(changed(content[key]))
    return found


def check(found: Conclusion) -> None:
    draft(found)
    assert all(sentence and "\n" not in sentence for sentence in found.refusals)


@settings(max_examples=400)
@given(st.sampled_from([name for name in SOURCES if name != "config.pbtxt"]), st.data(), st.sampled_from(FILES))
def test_no_document_is_a_crash(name: str, data: st.DataObject, file) -> None:
    contents = {other: content for other, content in SOURCES.items() if data.draw(st.booleans()) or other == name}
    for _ in range(data.draw(st.integers(1, 2))):
        changes = data.draw(changed(contents[name]))
        contents[name] = changes if isinstance(changes, dict) else contents[name]
    check(conclude(file, Given(), [Document(each, content) for each, content in contents.items()]))


@given(st.dictionaries(st.sampled_from(list(OPENVINO)), st.text(max_size=9) | st.sampled_from(WORDS)), st.data())
def test_no_metadata_is_a_crash(changes: dict[str, str], data: st.DataObject) -> None:
    kinds = ["SSD", "Classification", "Segmentation", "YOLOX", "YOLO11", "keypoint_detection", "MaskRCNN"]
    stated = OPENVINO | {"model_type": data.draw(st.sampled_from(kinds))} | changes
    file = data.draw(st.sampled_from(FILES))
    metadata = {f"model_info {key}": value for key, value in stated.items()}
    check(conclude(type(file)(file.path, file.inputs, file.outputs, metadata), Given(), []))


@given(st.text(alphabet='{}[]:"#, \nainput-3', max_size=60))
def test_no_config_of_triton_is_a_crash(text: str) -> None:
    with suppress(ValueError):
        check(conclude(model_file(), Given(), [Document("config.pbtxt", parse_config(text))]))


@pytest.mark.parametrize("name", list(SOURCES))
def test_each_file_says_something_by_itself(name: str) -> None:
    """As `--from FILE` needs it."""
    assert conclude(model_file(), Given(documents=[Document(name, SOURCES[name])]), [])
