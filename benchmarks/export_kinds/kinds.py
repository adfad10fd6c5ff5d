"""What a kind of export is: a model file, what its user knows, and what the library itself answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server import Answer

Pixels = NDArray[np.uint8]
"""An upright image, (H, W, 3) RGB."""
LEAST = 1e-3
"""Distance from a threshold within which a box may be there or not."""

YOLOX_PIXELS: dict[str, Any] = {
    "task": "detection",
    "input.color": "BGR",
    "input.resize": "letterbox",
    "input.scale": 1,
    "input.mean": [0],
    "input.std": [1],
}
"""What YOLOX states of its input, but for what follows from its head."""


class Expected(Protocol):
    """What the library answers for an image."""

    def differs(self, other: Any) -> str:
        """How another such answer differs, empty if it is the same but for rounding."""

    def like(self, answer: Answer, least: float) -> Any:
        """The server's answer in this form; `least` is the model's min_score."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A probability for each label."""

    by_label: Mapping[str, float]

    def differs(self, other: "Scores") -> str:
        if self.by_label.keys() != other.by_label.keys():
            return f"labels {list(other.by_label)[:3]} for {list(self.by_label)[:3]}"
        most = max(abs(value - other.by_label[label]) for label, value in self.by_label.items())
        return f"a probability differs by {most:.2g}" if most > 1e-4 else ""

    def like(self, answer: Answer, least: float) -> "Scores":
        result: Any = answer.result
        return Scores(dict(zip(result.labels, map(float, result.probabilities), strict=True)))


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes (N, 4) xyxy in the image's pixels, with label and score; those under `least` are left out."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: Sequence[str]
    least: float = 0.0

    def within(self, width: int, height: int) -> "Boxes":
        """What the server answers of them: clipped to the image, without those that lie outside."""
        boxes = np.clip(self.boxes, 0, [width, height, width, height])
        keep = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        return Boxes(boxes[keep], self.scores[keep], [self.labels[index] for index in keep], self.least)

    def differs(self, other: "Boxes") -> str:
        """Each clear box has its own of the same label, place (half a pixel) and score in the other, and vice versa."""
        least = max(self.least, other.least) + LEAST
        missing = self._missing(other, least) + other._missing(self, least)
        number = int((self.scores > least).sum())
        if not number:
            return "no box is over the least score, so nothing is compared"
        return f"{missing} boxes of {number} have no counterpart" if missing else ""

    def _missing(self, other: "Boxes", least: float) -> int:
        free = set(range(len(other.boxes)))
        missing = 0
        for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True):
            if score <= least:
                continue
            found = next((i for i in sorted(free) if other._is(i, box, score, label)), None)
            if found is None:
                missing += 1
            else:
                free.discard(found)
        return missing

    def _is(self, index: int, box: NDArray[np.float64], score: float, label: str) -> bool:
        near = bool(np.abs(self.boxes[index] - box).max() <= 0.5)
        return near and abs(self.scores[index] - score) <= LEAST and self.labels[index] == label

    def like(self, answer: Answer, least: float) -> "Boxes":
        result: Any = answer.result
        names = [result.labels[index] for index in result.class_ids]
        return Boxes(result.boxes.astype(float), result.scores.astype(float), names, least)


@dataclass(frozen=True, slots=True)
class Mask:
    """The name of each pixel's class, as its index in `labels`, (H, W); a share `apart` of them may differ."""

    mask: NDArray[np.integer[Any]]
    labels: Sequence[str]
    apart: float = 0.005

    def differs(self, other: "Mask") -> str:
        if list(self.labels) != list(other.labels) or self.mask.shape != other.mask.shape:
            return f"{other.mask.shape} of {list(other.labels)[:3]} for {self.mask.shape} of {list(self.labels)[:3]}"
        share = float((self.mask != other.mask).mean())
        if len(np.unique(self.mask)) < 2:
            return "all pixels have one class, so nothing is compared"
        return f"{share:.2%} of the pixels differ" if share > self.apart else ""

    def like(self, answer: Answer, least: float) -> "Mask":
        result: Any = answer.result
        mask = result.mask if hasattr(result, "mask") else result.masks[0].astype(np.uint8)
        return Mask(mask, list(result.labels))


@dataclass(frozen=True, slots=True)
class Vector:
    """A direction."""

    values: NDArray[np.float64]

    def differs(self, other: "Vector") -> str:
        if self.values.shape != other.values.shape:
            return f"{other.values.shape} numbers for {self.values.shape}"
        lengths = np.linalg.norm(self.values) * np.linalg.norm(other.values)
        apart = 1 - float(self.values @ other.values / lengths)
        return f"1 - cosine is {apart:.2g}" if apart > 1e-6 else ""

    def like(self, answer: Answer, least: float) -> "Vector":
        result: Any = answer.result
        return Vector(result.vector.astype(float))


@dataclass(frozen=True, slots=True)
class Export:
    """`expected` is the library's answer for an image, None for a model that must be refused, with `refused` in the
    sentence. `answers` has the values that a user of the library knows, if `init` asks for them; `stated` those that
    must be stated though it does not ask. `labels` are the names in a file that such a user has, `options` further
    ones of `init`. `image` is compared instead of the usual one."""

    model: Path
    expected: Callable[[Pixels], Expected] | None = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] = ()
    refused: str = ""
    stated: Mapping[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()
    image: Pixels | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """`module` and `make` name a function that writes the export into a folder, imported only when it is made."""

    name: str
    module: str
    make: str
