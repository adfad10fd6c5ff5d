"""What a keypoint model gives, as tta.yaml states it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.tasks.base import FORBID_EXTRA


@dataclass(frozen=True, slots=True)
class PointsOutput:
    """`output:` of a model that gives keypoints.

    `scores` is the unit of its heat maps, or of third coordinates. For heat maps, `stride` is the pixels of the input
    that a cell covers, and cell i's centre lies at pixel stride (i + `offset`). For coordinates, `units` says whether
    they are pixels of the input or fractions of its size, and `order` which of the two comes first. `pairs` are the
    labels that change places in a mirror image; `visible` is the least confidence of a point that counts as visible.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["heatmaps", "coordinates"]
    scores: Literal["logits", "probabilities"] = "probabilities"
    name: str | None = None
    stride: float | None = None
    offset: float = 0.5
    units: Literal["pixels", "normalized"] = "pixels"
    order: Literal["xy", "yx"] = "xy"
    pairs: tuple[tuple[str, str], ...] | None = None
    visible: float = 0.3

    def __post_init__(self) -> None:
        if self.kind == "coordinates" and (self.stride is not None or self.offset != 0.5):
            raise ValueError("stride and offset are for heat maps; leave them out for coordinates")
        if self.kind == "heatmaps" and (self.units != "pixels" or self.order != "xy"):
            raise ValueError("units and order are for coordinates; leave them out for heat maps")
        if self.stride is not None and not self.stride > 0:
            raise ValueError(f"stride takes a number of pixels over 0, not {self.stride:g}")
        if not 0 <= self.offset <= 1:
            raise ValueError(f"offset takes a fraction of a cell from 0 to 1, not {self.offset:g}")
        if not 0 <= self.visible <= 1:
            raise ValueError(f"visible takes a confidence from 0 to 1, not {self.visible:g}")


def mirror_order(labels: Sequence[str], pairs: Sequence[tuple[str, str]] | None) -> NDArray[np.intp]:
    """For each label the index of the label in its place in a mirror image; raises ConfigError."""
    if pairs is None:
        sided = [label for label in labels if "left" in label.lower() or "right" in label.lower()]
        if sided:
            raise ConfigError(
                f"output.pairs is missing: labels like {sided[0]!r} change places in a mirror image, as in "
                "[[left_eye, right_eye]]; [] says that none do"
            )
        pairs = ()
    order = np.arange(len(labels))
    named = [label for pair in pairs for label in pair]
    for label in named:
        if label not in labels:
            raise ConfigError(f"output.pairs names {label!r}, which is none of the labels: {', '.join(labels)}")
        if named.count(label) > 1:
            raise ConfigError(f"output.pairs names {label!r} twice")
    for one, other in pairs:
        i, j = list(labels).index(one), list(labels).index(other)
        order[i], order[j] = j, i
    return order
