"""Exported programs for PyTorch. Needs torch alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def export(module: torch.nn.Module, path: Path, image: torch.Tensor, free: Sequence[int] = ()) -> Path:
    """Write `model.pt2` with a free batch axis, and `free` ones beside it."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=1024)}
    axes.update((axis, torch.export.Dim.AUTO) for axis in free)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(torch.export.export(module.eval(), (image,), dynamic_shapes=(axes,)), path)
    return path


def exported(
    folder: Path,
    forward: Callable[[torch.Tensor], Any],
    image: torch.Tensor | None = None,
    free: Sequence[int] = (),
) -> Path:
    """Write a function as a program; its image is (N, 3, 8, 8) unless another one is given."""

    class Net(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> Any:
            return forward(image)

    return export(Net(), folder / "model.pt2", torch.rand(2, 3, 8, 8) if image is None else image, free)
