"""Exports of PyTorch modules, and weights that react to the image."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.export_kinds.kinds import Pixels

IMAGE_AXES = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
"""Optimum leaves all axes of an image free."""
LABELS = ["cell", "plate", "dust", "edge"]


def seeded(gain: float = 1.0) -> Any:
    """Makes the weights of a module reproducible; `enliven` afterwards."""
    torch.manual_seed(17)
    return gain


def enliven(module: Any, gain: float) -> Any:
    """Multiply matrices and kernels, so that random weights react to what is in the image."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter *= gain
    return module.eval()


def export(
    module: Any, example: Any, file: Path, names: tuple[Sequence[str], Sequence[str]], axes: Mapping[str, Any] | None
) -> Path:
    """As Optimum exports, by tracing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    inputs, outputs = names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(file),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            dynamo=False,
        )
    return file


def tensor(image: Pixels) -> torch.Tensor:
    """(H, W, 3) bytes -> (3, H, W) from 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
