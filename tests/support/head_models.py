"""Detectors of bright rectangles, as `onnx_models.detector`, whose outputs have the form of each head."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.heads import cells
from tests.support.onnx_models import detector
from tta_server.views.geometry import Size

INPUT = Size(96, 64)
SURE = 1 - 1e-6
LOWEST = 1e-6


class Nodes:
    """Adds nodes to a graph; each method returns the name of what it makes."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant {len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: Any, to: str = "", **attributes: Any) -> str:
        """Numbers and lists among the inputs become constants of float32."""
        name = to or f"{kind} {len(self._graph.node)}"
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self._graph.node.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def cast(self, values: str, kind: int, to: str = "") -> str:
        name = to or f"Cast {len(self._graph.node)}"
        self._graph.node.append(helper.make_node("Cast", [values], [name], to=kind))
        return name

    def rename(self, old: str, new: str) -> None:
        """Another name for what is made."""
        for node in self._graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]

    def floats(self, values: str) -> str:
        name = f"Cast {len(self._graph.node)}"
        self._graph.node.append(helper.make_node("Cast", [values], [name], to=TensorProto.FLOAT))
        return name

    def axis(self, values: str, axis: int) -> str:
        return self.op("Unsqueeze", values, self.constant([axis], np.int64))

    def columns(self, values: str, first: int, end: int) -> str:
        first_, end_, axis = (self.constant([each], np.int64) for each in (first, end, 2))
        return self.op("Slice", values, first_, end_, axis)

    def centres(self) -> tuple[str, str]:
        """Middles (n, 3, 2) and sides (n, 3, 2) of the boxes in pixels."""
        start, end = self.columns("boxes", 0, 2), self.columns("boxes", 2, 4)
        return self.op("Mul", self.op("Add", start, end), 0.5), self.op("Sub", end, start)

    def chances(self) -> str:
        """Scores of classes (n, 3, 3): each box's own."""
        return self.op("Mul", self.axis("scores", 2), np.eye(3))

    def clipped(self, values: str) -> str:
        return self.op("Clip", values, LOWEST, SURE)


def yolox(n: Nodes) -> dict[str, list[Any]]:
    """An object is in the cells, of all strides, that hold its middle; the others find nothing."""
    middles, strides = cells(INPUT)
    corners = middles - strides / 2
    middle, side = n.centres()
    nothing = np.array([0.5, 0.5, 1, 1, 0.01, 0.01, 0.01, 0.01])
    rows = n.op("Expand", nothing[None, None], n.constant([1, len(middles), 8], np.int64))
    for k in range(3):
        index = n.constant([k], np.int64)
        own_middle, own_side = (n.op("Gather", values, index, axis=1) for values in (middle, side))
        offset = n.op("Div", n.op("Sub", own_middle, corners[None]), strides[None])
        inside = n.op("Equal", n.op("Floor", offset), np.zeros((1, 1, 2)))
        here = _all(n, inside)
        logs = n.op("Log", n.op("Div", own_side, strides[None]))
        score = n.op("Add", n.axis(n.op("Gather", "scores", index, axis=1), 2), np.zeros((1, len(middles), 1)))
        classes = n.op("Add", n.op("Mul", score, 0.0), np.eye(3)[k][None, None])
        own = n.op("Concat", offset, logs, score, classes, axis=2)
        rows = n.op("Where", here, own, rows)
    n.op("Identity", rows, to="output")
    return {"output": ["n", len(middles), 8]}


def _all(n: Nodes, flags: str) -> str:
    """Flags (n, A, 2) that are both set: (n, A, 1)."""
    both = [n.columns(flags, i, i + 1) for i in (0, 1)]
    return n.op("And", *both)


def yolov5(n: Nodes) -> dict[str, list[Any]]:
    """Each object twice: once more with half its score."""
    classes = n.op("Add", n.op("Mul", n.chances(), 0.0), np.eye(3)[None])
    objectness = n.axis("scores", 2)
    once = n.op("Concat", *n.centres(), objectness, classes, axis=2)
    again = n.op("Concat", *n.centres(), n.op("Mul", objectness, 0.5), classes, axis=2)
    n.op("Concat", again, once, axis=1, to="output")
    return {"output": ["n", 6, 8]}


def yolov8(n: Nodes) -> dict[str, list[Any]]:
    """The same without an objectness, columns first."""
    once = n.op("Concat", *n.centres(), n.chances(), axis=2)
    again = n.op("Concat", *n.centres(), n.op("Mul", n.chances(), 0.5), axis=2)
    n.op("Transpose", n.op("Concat", again, once, axis=1), perm=[0, 2, 1], to="output0")
    return {"output0": ["n", 7, 6]}


def yolov10(n: Nodes) -> dict[str, list[Any]]:
    """And a row of zeros, which pads."""
    labels = n.op("CastLike", "labels", 0.0)
    rows = n.op("Concat", "boxes", n.axis("scores", 2), n.axis(labels, 2), axis=2)
    n.op("Pad", rows, n.constant([0, 0, 0, 0, 1, 0], np.int64), to="output0")
    return {"output0": ["n", 4, 6]}


def _queries(n: Nodes) -> None:
    n.op("Concat", *(n.op("Div", part, _size(n)) for part in n.centres()), axis=2, to="pred_boxes")


def _size(n: Nodes) -> str:
    """Width and height of the input, (2,)."""
    return n.cast(n.op("Gather", n.op("Shape", "image"), n.constant([3, 2], np.int64)), TensorProto.FLOAT)


def detr(n: Nodes) -> dict[str, list[Any]]:
    """Logarithms of chances that sum to 1, moved: a softmax takes no notice."""
    _queries(n)
    rest = n.axis(n.op("Sub", 1.0, "scores"), 2)
    chances = n.clipped(n.op("Concat", n.chances(), rest, axis=2))
    n.op("Add", n.op("Log", chances), 3.0, to="logits")
    return {"logits": ["n", 3, 4], "pred_boxes": ["n", 3, 4]}


def rt_detr(n: Nodes) -> dict[str, list[Any]]:
    _queries(n)
    chances = n.clipped(n.chances())
    n.op("Log", n.op("Div", chances, n.op("Sub", 1.0, chances)), to="logits")
    return {"logits": ["n", 3, 3], "pred_boxes": ["n", 3, 4]}


def torchvision(n: Nodes) -> dict[str, list[Any]]:
    """Lists of what is found, of the only image: a batch of two fails."""
    first = n.constant([0], np.int64)
    found = n.op("Squeeze", n.op("Not", n.op("Less", "scores", 0.05)), first)
    for name in ("boxes", "scores", "labels"):
        own = n.op("Squeeze", name, first)
        own = n.op("Add", own, n.constant(1, np.int64)) if name == "labels" else own
        n.op("Compress", own, found, axis=0, to=f"found {name}")
    return {"found boxes": ["m", 4], "found scores": ["m"], "found labels": ["m"]}


def mmdeploy(n: Nodes) -> dict[str, list[Any]]:
    n.op("Concat", "boxes", n.axis("scores", 2), axis=2, to="dets")
    return {"dets": ["n", 3, 5], "labels": ["n", 3]}


def rf_detr(n: Nodes) -> dict[str, list[Any]]:
    """A class that is none, and never is the answer."""
    n.op("Concat", *(n.op("Div", part, _size(n)) for part in n.centres()), axis=2, to="dets")
    never = n.op("Mul", n.axis("scores", 2), 0.0)
    chances = n.clipped(n.op("Concat", n.chances(), never, axis=2))
    n.op("Log", n.op("Div", chances, n.op("Sub", 1.0, chances)), to="their labels")
    return {"dets": ["n", 3, 4], "their labels": ["n", 3, 4]}


def _fractions(n: Nodes) -> str:
    """Corners (n, 3, 4) by the input's size."""
    return n.op("Div", "boxes", n.op("Concat", _size(n), _size(n), axis=0))


def d_fine(n: Nodes) -> dict[str, list[Any]]:
    """Boxes in pixels of an image of the size that is given with it, (n, 2): width, height."""
    size = n.op("CastLike", "orig_target_sizes", 0.0)
    n.op("Mul", _fractions(n), n.axis(n.op("Concat", size, size, axis=1), 1), to="their boxes")
    return {"labels": ["n", 3], "their boxes": ["n", 3, 4], "scores": ["n", 3]}


def paddle(n: Nodes) -> dict[str, list[Any]]:
    """A list of what is found in all images, which may be nothing."""
    turned = n.op("Div", "im_shape", "scale_factor")
    height, width = (n.op("Gather", turned, n.constant([i], np.int64), axis=1) for i in (0, 1))
    boxes = n.op("Mul", _fractions(n), n.axis(n.op("Concat", width, height, width, height, axis=1), 1))
    labels = n.axis(n.op("CastLike", "labels", 0.0), 2)
    rows = n.op("Concat", labels, n.axis("scores", 2), boxes, axis=2)
    found = n.op("Not", n.op("Less", "scores", 0.05))
    flat = [n.op("Reshape", values, n.constant(shape, np.int64)) for values, shape in ((rows, [-1, 6]), (found, [-1]))]
    n.op("Compress", *flat, axis=0, to="bbox")
    n.op(
        "ReduceSum",
        n.op("CastLike", found, n.constant(0, np.int32)),
        n.constant([1], np.int64),
        keepdims=0,
        to="bbox_num",
    )
    return {"bbox": ["m", 6], "bbox_num": ["n"]}


def tensorflow(n: Nodes) -> dict[str, list[Any]]:
    """Three rows and a fourth that does not count; classes from 1, all in floating point."""
    swapped = n.op("Gather", _fractions(n), n.constant([1, 0, 3, 2], np.int64), axis=2)
    labels = n.op("Add", n.op("CastLike", "labels", 0.0), 1.0)
    for name, values, pads in (
        ("detection_boxes", swapped, [0, 0, 0, 0, 1, 0]),
        ("detection_scores", "scores", [0, 0, 0, 1]),
        ("detection_classes", labels, [0, 0, 0, 1]),
    ):
        n.op("Pad", values, n.constant(pads, np.int64), n.constant(0.75), to=name)
    count = n.op("Mul", n.op("ReduceSum", labels, n.constant([1], np.int64), keepdims=0), 0.5)
    n.op("Identity", count, to="num_detections")
    return {
        "detection_boxes": ["n", 4, 4],
        "detection_scores": ["n", 4],
        "detection_classes": ["n", 4],
        "num_detections": ["n"],
    }


def openvino_ssd(n: Nodes) -> dict[str, list[Any]]:
    """A list of what is found in all images, each with its number, up to -1; what follows does not count."""
    one = n.op("Add", n.op("CastLike", n.op("Mul", "labels", n.constant(0, np.int64)), 0.0), 1.0)
    image = n.op("Sub", n.op("CumSum", one, n.constant(0, np.int64)), 1.0)
    labels = n.op("Add", n.op("CastLike", "labels", 0.0), 1.0)
    rows = n.op("Concat", *(n.axis(each, 2) for each in (image, labels, "scores")), _fractions(n), axis=2)
    rows = n.op("Reshape", rows, n.constant([-1, 7], np.int64))
    end = [[-1, 0, 0, 0, 0, 0, 0], [0, 1, 0.75, 0.25, 0.25, 0.5, 0.5]]
    n.op("Unsqueeze", n.op("Concat", rows, end, axis=0), n.constant([0, 1], np.int64), to="detection_out")
    return {"detection_out": [1, 1, "m", 7]}


MAKERS = {
    "yolox": yolox,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolov10": yolov10,
    "detr": detr,
    "rt_detr": rt_detr,
    "rf_detr": rf_detr,
    "d_fine": d_fine,
    "torchvision": torchvision,
    "mmdeploy": mmdeploy,
    "paddle": paddle,
    "tensorflow": tensorflow,
    "openvino_ssd": openvino_ssd,
}
"""By the value of `output.head`."""
OTHERS = {
    "d_fine": {"orig_target_sizes": "width_height"},
    "paddle": {"im_shape": "height_width", "scale_factor": "ones"},
}
"""What a head's model takes beside the image."""


def head_model(head: str, *, of_one_image: bool = False, is_free: bool = False) -> Any:
    """Takes batches of INPUT, of any size if it is free, or an image without a batch axis.

    Classes are red, green, blue.
    """
    model = detector(("n", 3, "h", "w") if is_free else ("n", 3, INPUT.height, INPUT.width))
    nodes = Nodes(model.graph)
    if of_one_image:
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("alone", TensorProto.FLOAT, [3, INPUT.height, INPUT.width])
        )
        nodes.op("Unsqueeze", "alone", nodes.constant([0], np.int64), to="image")
        model.graph.node.insert(0, model.graph.node.pop())
    for name in OTHERS.get(head, {}):
        kind = TensorProto.INT64 if head == "d_fine" else TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(name, kind, ["n", 2]))
    shapes = MAKERS[head](nodes)
    del model.graph.output[:]
    for name, shape in shapes.items():
        kind = TensorProto.INT64 if "labels" in name and len(shape) < 3 else TensorProto.FLOAT
        kind = TensorProto.INT32 if name == "bbox_num" else kind
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model
