"""Nets that fit one colour order and one range of values, and images that show it."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from tests.support.batch_nets import net, node

COLORS = {"black": (0, 0, 0), "red": (255, 0, 0), "orange": (255, 128, 0), "yellow": (255, 255, 0)}
"""Classes; with red and blue exchanged they are alike to `prototypes`."""
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def prototypes(shape=("n", 3, 8, 8)) -> ModelProto:
    """Logits by the distance of an image's mean colour, normalised by ImageNet's mean and std, from the classes'."""
    points = (np.array(list(COLORS.values())) / 255 - MEAN) / STD
    nodes = [
        node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
        node("Gemm", ["colour", "w", "b"], ["out"]),
    ]
    weights = {"w": (2 * points.T).astype(np.float32), "b": -(points**2).sum(1).astype(np.float32)}
    return net(nodes, weights, ["n", len(COLORS)], shape)


def red_boxes() -> ModelProto:
    """One box in each image, with its red for a score."""
    nodes = [
        node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        node("Gather", ["means", "first"], ["red"], axis=1),
        node("Unsqueeze", ["red", "last"], ["scores"]),
        node("Mul", ["scores", "none"], ["nothing"]),
        node("Add", ["nothing", "box"], ["boxes"]),
    ]
    weights = {
        "first": np.array([0], np.int64),
        "last": np.array([2], np.int64),
        "none": np.zeros((1, 1, 4), np.float32),
        "box": np.array([[[1, 1, 6, 6]]], np.float32),
    }
    model = net(nodes, weights, [1], ("n", 3, 8, 8))
    del model.graph.output[:]
    for name, columns in (("boxes", 4), ("scores", 1)):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, columns]))
    return model


def write_images(folder: Path, count: int, *names: str) -> Path:
    """Images of these colours in turn, by default of all, with some noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        color = [COLORS[name] for name in names or COLORS][number % len(names or COLORS)]
        pixels = np.clip(np.array(color) + random.integers(-20, 21, (12, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
