"""Points: heat maps, coordinates and bins. Images are crops of one person, as these models take them."""

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.contracts.contract import Asked, Contract, Entry
from tests.contracts.expected import Points
from tests.contracts.graphs import IMAGENET, Input, export
from tests.contracts.pictures import DOTS, MIDDLES
from tests.support.head_models import Nodes

WIDTH, HEIGHT = 96, 64
FIXED = (1, 3, HEIGHT, WIDTH)
INPUT = Input(FIXED, "input", normal=IMAGENET)
BARE = {"labels": "[a, b, c]", "input.color": "RGB", "input.resize": "exact", "input.scale": "255"}
BARE |= {"input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]"}
VITPOSE = {"architectures": ["VitPoseForPoseEstimation"], "model_type": "vitpose"}
VITPOSE |= {"id2label": {"0": "Nose", "1": "L_Eye", "2": "R_Eye"}}
HEATMAPS = BARE | {"task": "keypoints", "output.kind": "heatmaps"}
COORDINATES = BARE | {"task": "keypoints", "output.kind": "coordinates"}


def heat(name: str, moved: float = 0.0, times: float = 1.0, last: bool = False) -> Any:
    """Maps (n, 3, h, w), or (n, h, w, 3): the image, averaged over squares of four pixels, times and plus a number."""

    def maker(n: Nodes) -> dict[str, Any]:
        small = n.op("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
        scores = n.op("Add", n.op("Mul", n.op("Clip", small, 0.0, 1.0), times), moved)
        n.op("Transpose", scores, perm=[0, 2, 3, 1] if last else [0, 1, 2, 3], to=name)
        return {name: ["n", 16, 24, 3] if last else ["n", 3, 16, 24]}

    return maker


def sided(n: Nodes) -> dict[str, Any]:
    """Maps of the blue point, and of the red and the green one: first the one to the left, seen from the blue one.

    They go below 0. Mirror images show the two with each other's label, turned images do not.
    """
    heat("all maps", -0.02)(n)
    red, green, blue = (n.op("Gather", "all maps", n.constant([i], np.int64), axis=1) for i in range(3))
    x, y = ([_one(n, middle(n, axis), i) for i in range(3)] for axis in (3, 2))
    turns = [n.op("Mul", n.op("Sub", x[i], x[2]), n.op("Sub", y[1 - i], y[2])) for i in (0, 1)]
    is_red = n.op("Greater", *turns)
    pair = [n.op("Where", is_red, *maps) for maps in ((red, green), (green, red))]
    n.op("Concat", blue, *pair, axis=1, to="heatmaps")
    return {"heatmaps": ["n", 3, 16, 24]}


def _one(n: Nodes, values: str, index: int) -> str:
    """One of (n, 3, 1), as (n, 1, 1, 1)."""
    return n.axis(n.op("Gather", values, n.constant([index], np.int64), axis=1), 3)


def middle(n: Nodes, axis: int) -> str:
    """The middle of what is bright in each channel, in pixels along an axis of the image: (n, 3, 1)."""
    bright = n.cast(n.op("Greater", "image", 0.5), TensorProto.FLOAT)
    lit = n.op("ReduceMax", bright, axes=[5 - axis], keepdims=0)
    places = np.arange((HEIGHT, WIDTH)[axis - 2]) + 0.5
    total = n.op("ReduceSum", n.op("Mul", lit, places), n.constant([2], np.int64), keepdims=1)
    return n.op("Div", total, n.op("Max", n.op("ReduceSum", lit, n.constant([2], np.int64), keepdims=1), 1.0))


def bins(n: Nodes) -> dict[str, Any]:
    """simcc_x (n, 3, 192) and simcc_y (n, 3, 128): two bins for a pixel, highest at the middle."""
    for name, axis, size in (("simcc_x", 3, WIDTH), ("simcc_y", 2, HEIGHT)):
        bin_ = n.op("Sub", n.op("Mul", middle(n, axis), 2.0), 1.0)
        distance = n.op("Abs", n.op("Sub", np.arange(2 * size), bin_))
        n.op("Sub", 0.75, n.op("Mul", distance, 0.001), to=name)
    return {"simcc_x": ["n", 3, 2 * WIDTH], "simcc_y": ["n", 3, 2 * HEIGHT]}


def coordinates(name: str, shape: list[Any], scale: Any = 1.0, moved: float = 0.0) -> Any:
    """x and y of each point, times and plus a number, in that shape behind the batch axis."""

    def maker(n: Nodes) -> dict[str, Any]:
        both = n.op("Concat", middle(n, 3), middle(n, 2), axis=2)
        placed = n.op("Add", n.op("Mul", both, scale), moved)
        n.op("Reshape", placed, n.constant([-1, *shape], np.int64), to=name)
        return {name: ["n", *shape]}

    return maker


def pose(name: str, *makers: Any, typed: dict[str, str]) -> Contract:
    return Contract(name, lambda: export(INPUT, *makers), DOTS, Points(MIDDLES), typed=typed)


FRACTIONS = np.divide(1, (WIDTH, HEIGHT))
POINTS: list[Entry] = [
    pose("HRNet", heat("output"), typed=HEATMAPS | {"output.scores": "probabilities"}),
    Contract("ViTPose of Hugging Face, for crops", lambda: export(INPUT, sided), DOTS,
             Points((MIDDLES[2], MIDDLES[0], MIDDLES[1])), files={"config_json": VITPOSE},
             typed={key: BARE[key] for key in BARE if key != "labels"} | {"task": "keypoints"}),
    pose("maps before a sigmoid", heat("output", -12.0, 24.0), typed=HEATMAPS | {"output.scores": "logits"}),
    pose("maps of TensorFlow, channels last", heat("output", last=True),
         typed=HEATMAPS | {"output.scores": "probabilities", "output.layout": "NHWC"}),
    pose("RTMPose, SimCC", bins, typed=BARE),
    pose("coordinates in pixels", coordinates("output", [3, 2]), typed=COORDINATES | {"output.units": "pixels"}),
    pose("landmarks, flat", coordinates("landmarks", [6], FRACTIONS),
         typed=COORDINATES | {"output.units": "normalized"}),
    pose("landmarks from -1 to 1", coordinates("landmarks", [6], 2 * FRACTIONS, -1.0),
         typed=COORDINATES | {"output.units": "signed"}),
    Asked("landmarks whose units are not known", lambda: export(INPUT, coordinates("landmarks", [6], FRACTIONS)),
          "output.units: pixels | normalized, fractions of the input's size | signed, from -1 to 1 across it",
          typed=COORDINATES),
]  # fmt: skip
