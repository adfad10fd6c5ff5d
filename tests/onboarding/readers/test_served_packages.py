"""Models that other tools describe, from their files to the answer: boxes and values are known by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.exports import classifier_of, softmax_classifier, with_metadata, write_export
from tests.support.head_models import head_model
from tests.support.onnx_models import segmenter
from tta_server import load
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.documents import documents_beside, read_labels
from tta_server.onboarding.draft import draft
from tta_server.onboarding.evidence import Document, Fact
from tta_server.onboarding.model_file import read_model_file
from tta_server.onboarding.readers.torchvision_weights import KEY

BLUE = (51, 102, 255)
MEAN, STD = [100.0, 50.0, 0.0], [50.0, 50.0, 100.0]
LABELS = "red\ngreen\nblue\n"


def served(tmp_path: Path, file: Path, *stated: Fact, labels: bool = False, named: Sequence[Document] = ()) -> Any:
    """The model that `init` makes of a file and what lies beside it, loaded."""
    documents = [*named]
    if labels:
        (tmp_path / "names.txt").write_text(LABELS)
        documents.append(read_labels(tmp_path / "names.txt"))
    found = conclude(read_model_file(file), Given(stated, documents), documents_beside(file))
    assert not found.refusals
    return load(written(tmp_path / "served", file, found))


def written(folder: Path, file: Path, found: Conclusion) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(file.read_bytes())
    made = draft(found)
    (folder / "tta.yaml").write_text(made.text)
    return folder


def flat(height=20, width=40, color=BLUE) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def softmax(z: Any) -> np.ndarray:
    e = np.exp(z - np.max(z))
    return e / e.sum()


def probabilities(loaded: Any, image: np.ndarray) -> np.ndarray:
    with loaded as model:
        return model.predict(image, budget_ms=5000).result.probabilities


def boxes(loaded: Any, image: np.ndarray) -> list[tuple[str, list[float]]]:
    with loaded as model:
        found = model.predict(image, budget_ms=5000).prediction["boxes"]
    return [(each["label"], each["box"]) for each in found]


def with_red_box(scale: int = 1) -> np.ndarray:
    """96 wide and 64 high, black, with a red box from (24, 16) to (72, 48), times `scale`."""
    image = np.zeros((64 * scale, 96 * scale, 3), np.uint8)
    image[16 * scale : 48 * scale, 24 * scale : 72 * scale, 0] = 255
    return image


def openvino(**changes: str) -> dict[str, str]:
    stated = {
        "model_type": "Classification",
        "labels": "red green blue",
        "label_info": "{}",
        "mean_values": "100 50 0",
        "scale_values": "50 50 100",
        "resize_type": "standard",
        "reverse_input_channels": "False",
    }
    return {f"model_info {key}": value for key, value in (stated | changes).items()}


@pytest.mark.parametrize(("reverses", "order"), [("False", [0, 1, 2]), ("True", [2, 1, 0])])
def test_a_classifier_of_openvino(tmp_path: Path, reverses: str, order: list[int]) -> None:
    """(x - mean) / scale of values up to 255, in the order that reverse_input_channels gives."""
    model = with_metadata(softmax_classifier(), openvino(reverse_input_channels=reverses))
    kind = Fact("output.kind", "probabilities", "stated")
    found = probabilities(served(tmp_path, write_export(tmp_path, model), kind), flat())
    expected = (np.array(BLUE, np.float64)[order] - MEAN) / STD
    np.testing.assert_allclose(found, softmax(expected), rtol=1e-4)


def test_a_detector_of_openvino(tmp_path: Path) -> None:
    """SSD by boxes with a score and labels: an image of twice the size of the input."""
    stated = openvino(model_type="ssd", mean_values="0", scale_values="255", confidence_threshold="0.4")
    file = write_export(tmp_path, with_metadata(head_model("mmdeploy"), stated))
    assert boxes(served(tmp_path, file), with_red_box(2)) == [("red", [48, 32, 144, 96])]


def pipeline(*transforms: Any, component="LinearClsHead", module="mmpretrain") -> dict[str, Any]:
    normalize = {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": True}
    end = [{"type": "ImageToTensor", "keys": ["img"]}, {"type": "Collect", "keys": ["img"]}]
    steps = [{"type": "LoadImageFromFile"}, *transforms]
    steps += [*([] if any(step["type"] == "Normalize" for step in transforms) else [normalize]), *end]
    tasks = [
        {"type": "Task", "module": "Transform", "name": "Preprocess", "transforms": steps},
        {"type": "Task", "module": "Net", "name": "net", "input_map": {"img": "input"}},
        {"type": "Task", "module": module, "name": "postprocess", "component": component, "params": {"score_thr": 0.3}},
    ]
    return {"pipeline": {"input": ["img"], "output": ["post_output"], "tasks": tasks}}


def test_a_classifier_of_mmdeploy(tmp_path: Path) -> None:
    """The short side is 10, the middle 8 x 8 counts."""
    transforms = {"type": "Resize", "size": [10, -1], "keep_ratio": True}, {"type": "CenterCrop", "crop_size": 8}
    file = write_export(tmp_path, softmax_classifier(), "end2end.onnx", pipeline_json=pipeline(*transforms))
    image = flat()
    image[:, :5] = 255
    found = probabilities(served(tmp_path, file, labels=True), image)
    np.testing.assert_allclose(found, softmax((np.array(BLUE) - MEAN) / STD), rtol=1e-4)


def test_a_detector_of_mmdeploy(tmp_path: Path) -> None:
    """Squashed to [width, height] as mmdet states it, boxes come back in the image's pixels."""
    normalize = {"type": "Normalize", "mean": [0, 0, 0], "std": [255, 255, 255], "to_rgb": True}
    resize = {"type": "Resize", "size": [96, 64], "keep_ratio": False}
    stated = pipeline(resize, normalize, component="ResizeBBox", module="mmdet")
    file = write_export(tmp_path, head_model("mmdeploy"), "end2end.onnx", pipeline_json=stated)
    assert boxes(served(tmp_path, file, labels=True), with_red_box(2)) == [("red", [48, 32, 144, 96])]


def roboflow(architecture: str, task: str, post: Any, **network: Any) -> dict[str, Any]:
    size = {"height": 64, "width": 96}
    stated = {"training_input_size": size, "color_mode": "rgb", "resize_mode": "letterbox", "padding_value": 0}
    stated |= {"input_channels": 3, "scaling_factor": 255, "dynamic_spatial_size_supported": False}
    return {
        "model_config_json": {"model_architecture": architecture, "task_type": task, "backend_type": "onnx"},
        "inference_config_json": {"network_input": stated | network, "post_processing": post},
        "class_names_txt": LABELS,
    }


@pytest.mark.parametrize(
    ("head", "architecture", "fused"),
    [("yolov8", "yolov11", False), ("yolov10", "yolov11", True), ("yolov5", "yolov7", False)],
)
def test_a_detector_of_roboflow(tmp_path: Path, head: str, architecture: str, fused: bool) -> None:
    """An image that is half as wide as the input, between bars."""
    post = {"type": "nms", "fused": fused, "nms_parameters": {"confidence_threshold": 0.6, "iou_threshold": 0.5}}
    files = roboflow(architecture, "object-detection", post)
    file = write_export(tmp_path, head_model(head), "weights.onnx", **files)
    image = np.zeros((128, 96, 3), np.uint8)
    image[32:96, 24:72, 1] = 255
    assert boxes(served(tmp_path, file), image) == [("green", [24, 32, 72, 96])]


def test_a_classifier_of_roboflow(tmp_path: Path) -> None:
    size = {"height": 8, "width": 8}
    normalization = [[0.5, 0.25, 0.0], [0.5, 0.5, 0.25]]
    stated = {"training_input_size": size, "resize_mode": "stretch", "normalization": normalization}
    files = roboflow("vit", "classification", {"type": "softmax", "fused": False}, **stated)
    file = write_export(tmp_path, classifier_of(("n", 3, 8, 8)), "weights.onnx", **files)
    expected = (np.divide(BLUE, 255) - normalization[0]) / normalization[1]
    np.testing.assert_allclose(probabilities(served(tmp_path, file), flat()), softmax(expected), rtol=1e-4)


def test_a_segmenter_of_roboflow(tmp_path: Path) -> None:
    """Each pixel's class is its brightest colour; bars of a letterbox are no part of the mask."""
    stated = {"training_input_size": {"height": 8, "width": 8}, "normalization": [[0.5] * 3, [0.5] * 3]}
    files = roboflow("deep-lab-v3-plus", "semantic-segmentation", {"type": "softmax", "fused": False}, **stated)
    file = write_export(tmp_path, segmenter((1, 3, 8, 8)), "weights.onnx", **files)
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16, 0] = image[:, 16:, 2] = 255
    with served(tmp_path, file) as model:
        mask = model.predict(image, budget_ms=5000).result.mask
    np.testing.assert_array_equal(mask, np.where(image[..., 0] > 0, 0, 2))


def test_a_model_of_a_triton_repository(tmp_path: Path) -> None:
    config = """
    name: "m" max_batch_size: 8
    input { name: "image" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [3, 8, 8] }
    output { name: "logits" data_type: TYPE_FP32 dims: [3] label_filename: "colours.txt" }
    """
    folder = tmp_path / "m"
    file = write_export(folder / "1", classifier_of(("n", 3, "h", "w")))
    (folder / "config.pbtxt").write_text(config)
    (folder / "colours.txt").write_text(LABELS)
    stated = {"task": "classification", "output.kind": "logits", "input.resize": "exact", "input.color": "RGB"}
    stated |= {"input.scale": 255, "input.mean": [0], "input.std": [1]}
    loaded = served(tmp_path, file, *(Fact(key, value, "stated") for key, value in stated.items()))
    np.testing.assert_allclose(probabilities(loaded, flat()), softmax(np.divide(BLUE, 255)), rtol=1e-5)


def test_a_detector_of_torchvision(tmp_path: Path) -> None:
    """Lists of what is found; class 1 is the first label, behind the background."""
    content = {KEY: "ObjectDetection", "categories": ["__background__", "red", "N/A", "N/A"]}
    file = write_export(tmp_path, head_model("torchvision"))
    stated = Fact("input.resize", "exact", "stated")
    loaded = served(tmp_path, file, stated, named=[Document("torchvision:X_Weights.V1", content)])
    assert boxes(loaded, with_red_box(2)) == [("red", [48, 32, 144, 96])]
    names = "labels: [red, N/A (1), N/A (2)]  # torchvision:X_Weights.V1: categories without __background__, 3 names"
    assert names in (tmp_path / "served" / "tta.yaml").read_text()
