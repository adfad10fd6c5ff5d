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
        """Another name for what is made; nothing may read it yet."""
        for node in self._graph.node:
            node.output[:] = [new if name == old else name for name in node.output]

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
    size = n.cast(n.op("Gather", n.op("Shape", "image"), n.constant([3, 2], np.int64)), TensorProto.FLOAT)
    n.op("Concat", *(n.op("Div", part, size) for part in n.centres()), axis=2, to="pred_boxes")


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


MAKERS = {
    "yolox": yolox,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolov10": yolov10,
    "detr": detr,
    "rt_detr": rt_detr,
    "torchvision": torchvision,
    "mmdeploy": mmdeploy,
}
"""By the value of `output.head`."""


def head_model(head: str, *, of_one_image: bool = False) -> Any:
    """Takes batches of INPUT, or an image without a batch axis; classes are red, green, blue."""
    model = detector(("n", 3, INPUT.height, INPUT.width))
    nodes = Nodes(model.graph)
    if of_one_image:
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("alone", TensorProto.FLOAT, [3, INPUT.height, INPUT.width])
        )
        nodes.op("Unsqueeze", "alone", nodes.constant([0], np.int64), to="image")
        model.graph.node.insert(0, model.graph.node.pop())
    shapes = MAKERS[head](nodes)
    del model.graph.output[:]
    for name, shape in shapes.items():
        kind = TensorProto.INT64 if "labels" in name else TensorProto.FLOAT
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model
