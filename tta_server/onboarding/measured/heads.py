"""What a run of the file shows where shapes leave two heads open: rows in pixels, or offsets in cells."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tta_server.backends.onnxruntime import DTYPES, open_file
from tta_server.errors import ConfigError
from tta_server.onboarding.choices import Values
from tta_server.onboarding.evidence import Fact, Finding
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.heads import fitting
from tta_server.tasks.boxes.cells import cells, count_cells
from tta_server.tasks.boxes.grids import SMALL
from tta_server.tasks.boxes.heads import HEADS
from tta_server.views.geometry import Size

FREE_SIDE = 256
"""Pixels of a free side in the run."""
NEAR = 2.0
"""Cells by which the middles of decoded boxes lie away from their own, at most, in the median."""


def measure_head(file: ModelFile, values: Values) -> Iterator[Finding]:
    """The head of a grid's rows, from boxes for an image of noise; nothing where they do not tell.

    Offsets in cells and logarithms of sides are small, whatever the image. Boxes in pixels lie at their cells.
    """
    is_open = values.get("task") == "detection" and "output.head" not in values
    if (
        not is_open
        or file.others
        or file.refusal
        or not file.path.is_file()
        or not {"yolox", "yolov5"} <= set(fitting(values, file))
    ):
        return
    scale = values.get("input.scale", 255)
    seen = _boxes(file, scale if isinstance(scale, int | float) and scale else 255)
    if seen is None:
        return
    boxes, size = seen
    most, distance = float(np.quantile(np.abs(boxes).max(axis=1), 0.9)), _distance(boxes, size)
    if distance <= NEAR:
        source = f"boxes for an image of noise lie {distance:.2g} cells from their own, in pixels"
        yield Fact("output.head", "yolov5", f"measured: {source}")
    elif most <= SMALL:
        source = f"boxes for an image of noise come to {most:.2g}, as offsets in cells do"
        yield Fact("output.head", "yolox", f"measured: {source}")


def _distance(boxes: NDArray[Any], size: Size) -> float:
    """How far middles in pixels lie from those of their cells: the median, in cells."""
    middles, lengths = cells(size, HEADS["yolox"].usual["strides"])
    return float(np.median(np.abs(boxes[:, :2] - middles).max(axis=1) / lengths))


def _boxes(file: ModelFile, scale: float) -> tuple[NDArray[np.float64], Size] | None:
    """Boxes (A, 4) for an image of noise of that size; None if the file does not run, or has no row for each cell."""
    shape = file.tensor_shape(FREE_SIDE)
    height, width = shape[1:3] if file.layout == "NHWC" else shape[2:]
    kind = DTYPES[file.inputs[0].type]
    noise = np.random.default_rng(0).uniform(0, 255, shape) / (1 if kind is np.uint8 else scale)
    taken = noise.astype(kind) if len(file.inputs[0].shape) == 4 else noise[0].astype(kind)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = open_file(file.path, options, ["CPUExecutionProvider"])
        rows = np.asarray(session.run([file.tensors[0].name], {file.inputs[0].name: taken})[0])
    except (ConfigError, RuntimeError, ValueError):
        return None
    size = Size(width, height)
    if rows.ndim != 3 or rows.shape[1] != count_cells(size, HEADS["yolox"].usual["strides"]):
        return None
    boxes = rows[0, :, :4].astype(np.float64)
    return (boxes, size) if np.isfinite(boxes).all() else None
