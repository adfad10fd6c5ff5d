"""What a keypoint model gives, as tta.yaml states it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.tasks.base import FORBID_EXTRA
from tta_server.tasks.points.sides import names_side

Kind = Literal["heatmaps", "coordinates", "simcc"]
KINDS_OF: Mapping[str, Sequence[Kind]] = {
    "name": ("heatmaps", "coordinates"),
    "scores": ("heatmaps", "coordinates"),
    "stride": ("heatmaps",),
    "offset": ("heatmaps",),
    "layout": ("heatmaps",),
    "units": ("coordinates",),
    "order": ("coordinates",),
    "x": ("simcc",),
    "y": ("simcc",),
    "split": ("simcc",),
}
"""Keys of `output:` that some kinds have, and which; the others are for all."""


@dataclass(frozen=True, slots=True)
class PointsOutput:
    """`output:` of a model that gives keypoints.

    `scores` is the unit of its heat maps, or of third coordinates: raw ones are clipped to [0, 1]. For heat maps,
    `stride` is the pixels of the input that a cell covers, and cell i's centre lies at pixel stride (i + `offset`). For
    coordinates, `units` says whether they are pixels of the input, fractions of its size, or from -1 to 1 across it,
    and `order` which of the two comes first. For simcc, `x` and `y` name the outputs of the axes, and `split` is the
    bins of a pixel. `pairs` are the labels that change places in a mirror image; `visible` is the least confidence of a
    point that counts as visible.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Kind
    scores: Literal["logits", "probabilities", "raw"] = "probabilities"
    name: str | None = None
    stride: float | None = None
    offset: float = 0.5
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    units: Literal["pixels", "normalized", "signed"] = "pixels"
    order: Literal["xy", "yx"] = "xy"
    x: str = "simcc_x"
    y: str = "simcc_y"
    split: float = 2
    pairs: tuple[tuple[str, str], ...] | None = None
    visible: float = 0.3

    def __post_init__(self) -> None:
        stated = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for key, kinds in KINDS_OF.items():
            if key in stated and self.kind not in kinds:
                raise ValueError(f"{key} is for {' and '.join(kinds)}; leave it out for {self.kind}")
        if self.stride is not None and not self.stride > 0:
            raise ValueError(f"stride takes a number of pixels over 0, not {self.stride:g}")
        if not self.split >= 1:
            raise ValueError(f"split takes a number of bins a pixel of 1 or more, not {self.split:g}")
        if not 0 <= self.offset <= 1:
            raise ValueError(f"offset takes a fraction of a cell from 0 to 1, not {self.offset:g}")
        if not 0 <= self.visible <= 1:
            raise ValueError(f"visible takes a confidence from 0 to 1, not {self.visible:g}")


def mirror_order(labels: Sequence[str], pairs: Sequence[tuple[str, str]] | None) -> NDArray[np.intp]:
    """For each label the index of the label in its place in a mirror image; raises ConfigError."""
    if pairs is None:
        sided = [label for label in labels if names_side(label)]
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
