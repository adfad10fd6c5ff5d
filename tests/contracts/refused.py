"""Exports that can't be served right: refused by name, and nothing is written."""

from typing import Any

from onnx import TensorProto, helper

from tests.contracts.classifiers import PROCESSOR, TIMM, logits
from tests.contracts.contract import Entry, Refused
from tests.contracts.detectors import DETR, hugging_face, queries, yolo
from tests.contracts.graphs import IMAGENET, Input, export
from tests.contracts.masks import query_masks
from tests.contracts.packages import pipeline
from tests.contracts.points import heat
from tests.support import head_models
from tests.support.exports import FREE, YOLO
from tests.support.head_models import Nodes

COLUMNS = {"segment": 4 + 3 + 32, "pose": 4 + 3 + 17 * 3, "obb": 4 + 3 + 1}


def rows(name: str, shape: list[int]) -> Any:
    """An output of that shape, all zeros."""

    def maker(n: Nodes) -> dict[str, Any]:
        first = n.op("ReduceMean", "image", axes=[1, 2, 3], keepdims=0)
        scalar = n.op("Mul", n.op("ReduceSum", first, keepdims=0), 0.0)
        n.op("Expand", scalar, n.constant(shape, "int64"), to=name)
        return {name: shape}

    return maker


def yolo_of(task: str) -> Refused:
    outputs = [rows("output0", [1, COLUMNS[task], 126])]
    if task == "segment":
        outputs.append(rows("output1", [1, 32, 16, 24]))
    return Refused(f"YOLO {task}", lambda: export(Input((1, 3, 64, 96)), *outputs), f"metadata task is '{task}'",
                   metadata=YOLO | {"task": task})  # fmt: skip


def picodet() -> Any:
    sides = (96, 24, 6, 2)
    outputs = [rows(f"transpose_{2 * i}", [1, count, 3]) for i, count in enumerate(sides)]
    outputs += [rows(f"transpose_{2 * i + 1}", [1, count, 32]) for i, count in enumerate(sides)]
    return export(Input((1, 3, 64, 96), "image"), *outputs)


def two_inputs() -> Any:
    model = export(Input(FREE, "pixel_values"), logits())
    model.graph.input.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"]))
    return model


REFUSED: list[Entry] = [
    yolo_of("segment"),
    yolo_of("pose"),
    yolo_of("obb"),
    Refused("YOLO depth", yolo, "metadata task is 'depth'", metadata=YOLO | {"task": "depth"}),
    Refused("RT-DETR of Ultralytics", lambda: export(Input((1, 3, 64, 64)), rows("output0", [1, 300, 7])),
            "output output0 is [1, 300, 7]; a YOLO detector of 3 classes gives [N, 7, M]", metadata=YOLO),
    Refused("PicoDet without post-processing", picodet, "export the model with its post-processing"),
    Refused("RTMO", lambda: export(Input((1, 3, 64, 96), "input"), rows("dets", [1, 9, 5]),
                                   rows("keypoints", [1, 9, 17, 3])),
            "are boxes that own points, as RTMO gives them"),
    Refused("RTMDet-ins of mmdeploy", lambda: export(Input((1, 3, 64, 96), "input"), rows("dets", [1, 9, 5])),
            "component ResizeInstanceMask: models of that kind are not served",
            files={"pipeline_json": pipeline("mmdet", "ResizeInstanceMask")}),
    Refused("EoMT, whose images are cut into windows", lambda: export(Input(FREE, "pixel_values"), query_masks),
            "the preprocessing of EomtImageProcessor is not known",
            files={"config_json": {"architectures": ["EomtForUniversalSegmentation"], "model_type": "eomt"},
                   "preprocessor_config_json": PROCESSOR | {"image_processor_type": "EomtImageProcessor"}}),
    Refused("depth of Hugging Face", lambda: export(Input(FREE, "pixel_values"), rows("predicted_depth", [1, 64, 96])),
            "models for DepthEstimation are not served yet",
            files={"config_json": {"architectures": ["DPTForDepthEstimation"], "model_type": "dpt"}}),
    Refused("ViTPose", lambda: export(Input(FREE, "pixel_values"), heat("heatmaps")),
            "it takes the box of one person, enlarged by a quarter, and not an image",
            files={"config_json": {"architectures": ["VitPoseForPoseEstimation"], "model_type": "vitpose"}}),
    Refused("YOLOS, whose sizes are multiples of 16", lambda: queries(head_models.detr, IMAGENET),
            "the preprocessing of YolosImageProcessor is not known to be one that tta.yaml can state",
            files=hugging_face("yolos", "YolosForObjectDetection",
                               DETR | {"image_processor_type": "YolosImageProcessor"})),
    Refused("EfficientNet of Hugging Face", lambda: export(Input(FREE, "pixel_values"), logits()),
            "the preprocessing of EfficientNetImageProcessor is not known",
            files={"preprocessor_config_json": PROCESSOR | {"image_processor_type": "EfficientNetImageProcessor"}}),
    Refused("timm, crop_mode border", lambda: export(Input((1, 3, 16, 16), "input"), logits()),
            "crop_mode border can't be stated in tta.yaml",
            files={"config_json": TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | {"crop_mode": "border"}}}),
    Refused("CLIP with its text", two_inputs, "input_ids"),
    Refused("config.json of PyTorch beside a file of TensorFlow",
            lambda: export(Input((1, 16, 16, 3), "input", "NHWC"), logits()), "take NCHW, but the file's input input",
            files={"config_json": TIMM}),
]  # fmt: skip
