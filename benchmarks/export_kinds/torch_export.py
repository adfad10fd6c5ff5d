"""Exports of PyTorch modules, and weights that react to the image."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.export_kinds.kinds import Pixels

IMAGE_AXES = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
"""Optimum leaves all axes of an image free."""
LABELS = ["cell", "plate", "dust", "edge"]


@dataclass(frozen=True, slots=True)
class Images:
    """Smooth images of a height and width, with values from low to high."""

    size: tuple[int, int]
    low: float = 0.0
    high: float = 1.0

    def make(self) -> torch.Tensor:
        blobs = torch.nn.functional.interpolate(torch.rand(4, 3, 12, 12), self.size, mode="bicubic")
        return self.low + (self.high - self.low) * blobs.clip(0, 1)


def enliven(module: Any, images: Images | None = None, gain: float = 1.5) -> Any:
    """Random weights that react to what is in an image; batch normalisation has seen `images`."""
    torch.manual_seed(17)
    module.eval()
    tables = {id(each.weight) for each in module.modules() if isinstance(each, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() < 2 or "dfl" in name:
                continue
            is_table = id(parameter) in tables or parameter.shape[0] == 1
            deviation = 0.5 if "bbox" in name else gain
            parameter.normal_(0, 1 if is_table else deviation / parameter[0].numel() ** 0.5)
        if images is not None:
            _normalize(module, images)
    return module.eval()


def _normalize(module: Any, images: Images) -> None:
    """Let batch normalisation measure its means and deviations."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
    module(images.make())
    module.eval()


def spread(module: Any, layers: Sequence[Any], images: Images, mean: float, deviation: float) -> None:
    """Set the weights of last layers so that their outputs have about this mean and deviation over images."""
    seen: dict[Any, torch.Tensor] = {}
    hooks = [layer.register_forward_hook(lambda layer, _, out: seen.update({layer: out})) for layer in layers]
    with torch.no_grad():
        module(images.make())
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            factor = deviation / float(seen[layer].std())
            layer.weight *= factor
            layer.bias.copy_(layer.bias * factor + mean - float(seen[layer].mean()) * factor)


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
