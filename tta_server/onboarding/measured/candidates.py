"""What is tried for keys of `input` that nothing states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tta_server.onboarding.choices import Values
from tta_server.onboarding.model_file import ModelFile
from tta_server.tasks import TASKS

CROP = 0.875
"""The usual part of the short side that a centre crop keeps."""
NORMALIZATION = ("input.scale", "input.mean", "input.std")


@dataclass(frozen=True, slots=True)
class Normalized:
    """scale, mean and std in the order red, green, blue."""

    scale: float
    mean: Sequence[float]
    std: Sequence[float]

    def values(self, color: str) -> Values:
        """As tta.yaml states them: in the model's order of channels."""
        step = -1 if color == "BGR" else 1
        numbers = (self.scale, list(self.mean)[::step], list(self.std)[::step])
        return dict(zip(NORMALIZATION, numbers, strict=True))


NORMALIZATIONS: Mapping[str, Normalized] = {
    "0 to 1": Normalized(255, [0.0], [1.0]),
    "ImageNet": Normalized(255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "-1 to 1": Normalized(255, [0.5], [0.5]),
    "CLIP": Normalized(255, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "CIFAR": Normalized(255, [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "0 to 255": Normalized(1, [0.0], [1.0]),
    "0 to 255 less the mean": Normalized(1, [123.675, 116.28, 103.53], [1.0]),
}
"""By name, what models are usually trained with."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A colour order, a way to resize (a value of input.resize) and a normalisation by name, or None: as stated."""

    color: str
    resize: Any
    normalization: str | None


def find_candidates(values: Values, file: ModelFile) -> Sequence[Candidate]:
    """All combinations of what is open; one if nothing is that can be tried."""
    return [
        Candidate(color, resize, normalization)
        for color in _colors(values)
        for resize in _resizes(values)
        for normalization in _normalizations(values, file)
    ]


def _colors(values: Values) -> Sequence[str]:
    stated = values.get("input.color")
    return ("RGB", "BGR") if stated is None else (str(stated),)


def _resizes(values: Values) -> Sequence[Any]:
    """To the size, or the short side before a centre crop of all, or of the usual part."""
    stated, size, task = values.get("input.resize"), values.get("input.size"), TASKS.get(str(values.get("task")))
    if stated is not None or not isinstance(size, list) or task is None or not task.sees_crops:
        return (stated,)
    return ("exact", max(size), round(max(size) / CROP))


def _normalizations(values: Values, file: ModelFile) -> Sequence[str | None]:
    """Those that agree with what is stated; None if all of it is."""
    if file.inputs[0].type == "tensor(uint8)" or all(key in values for key in NORMALIZATION):
        return (None,)
    return list(_agreeing(values))


def _agreeing(values: Values) -> Iterator[str]:
    color = str(values.get("input.color", "RGB"))
    for name, each in NORMALIZATIONS.items():
        fits = color != "grey" or len(each.mean) == 1
        if fits and all(_are_equal(values.get(key, own), own) for key, own in each.values(color).items()):
            yield name


def _are_equal(stated: Any, own: Any) -> bool:
    """Whether numbers are the same; one number stands for all channels."""
    try:
        return bool(np.all(np.asarray(stated, float) == np.asarray(own, float)))
    except (TypeError, ValueError):
        return False
