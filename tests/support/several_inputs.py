"""A model that takes four inputs beside its image, and gives numbers that show what they were."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.support.head_models import Nodes
from tests.support.onnx_models import graph

OTHERS = {
    "orig_target_sizes": "width_height",
    "im_shape": "height_width",
    "scale_factor": "ones",
    "pixel_mask": "mask",
}
DECLARED: Mapping[str, tuple[int, list[Any]]] = {
    "orig_target_sizes": (TensorProto.INT64, ["n", 2]),
    "im_shape": (TensorProto.FLOAT, ["n", 2]),
    "scale_factor": (TensorProto.FLOAT, ["n", 2]),
    "pixel_mask": (TensorProto.INT64, ["n", "h", "w"]),
}
LABELS = ["width", "height", "im height", "im width", "scale y", "scale x", "masked", "missed", "tall", "wide"]
"""`masked`: ones of the mask; `missed`: pixels whose red is not the mask's; `tall`, `wide`: the image's own axes."""


def measuring(declared: Mapping[str, Any] = DECLARED, *, layout: str = "NCHW", masked: bool = True) -> Any:
    """Takes images of any size; without `masked` there is no mask, and no pixel is missed."""
    shape = ("n", 3, "h", "w") if layout == "NCHW" else ("n", "h", "w", 3)
    model = graph([], shape, "float32", [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", 10])])
    kinds = {name: kind for name, kind in declared.items() if masked or name != "pixel_mask"}
    model.graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    n = Nodes(model.graph)
    sizes = [n.op("CastLike", name, 0.0) for name in ("orig_target_sizes", "im_shape", "scale_factor")]
    image = n.op("Transpose", "image", perm=[0, 3, 1, 2]) if layout == "NHWC" else "image"
    index, one, axes = n.constant(0, np.int64), n.constant([1], np.int64), n.constant([1, 2], np.int64)
    red = n.op("Gather", image, index, axis=1)
    mask = n.op("CastLike", "pixel_mask", 0.0) if masked else red
    missed = n.op("Abs", n.op("Sub", red, mask))
    sums = [n.op("Unsqueeze", n.op("ReduceSum", x, axes, keepdims=0), one) for x in (mask, missed)]
    height_width = n.op("CastLike", n.op("Shape", image, start=2, end=4), 0.0)
    own = n.op("Add", n.op("Mul", sizes[0], 0.0), n.op("Unsqueeze", height_width, n.constant([0], np.int64)))
    n.op("Concat", *sizes, *sums, own, axis=1, to="values")
    return model
