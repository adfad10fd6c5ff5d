"""What contracts expect: values computed by hand from the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tta_server.serving.answer import Answer

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Boxes:
    """All boxes, in any order: label, score, and left, top, right, bottom in the image's pixels."""

    boxes: tuple[tuple[str, float, Box], ...]

    def check(self, answer: Answer) -> None:
        found = sorted((each["label"], each["score"], each["box"]) for each in answer.prediction["boxes"])
        assert [each[0] for each in found] == [each[0] for each in sorted(self.boxes)]
        for (_, score, box), (_, expected_score, expected_box) in zip(found, sorted(self.boxes), strict=True):
            np.testing.assert_allclose(score, expected_score, atol=2e-3)
            np.testing.assert_allclose(box, expected_box, atol=2e-3)


@dataclass(frozen=True)
class Scores:
    """The probability of each label."""

    probabilities: tuple[float, ...]
    top: str
    within: float = 1e-3

    def check(self, answer: Answer) -> None:
        np.testing.assert_allclose(answer.result.probabilities, self.probabilities, atol=self.within)
        assert answer.prediction["top"][0]["label"] == self.top


@dataclass(frozen=True)
class Values:
    """Numbers of `result` under a name: a regression's values, an embedding's vector."""

    name: str
    values: tuple[float, ...]

    def check(self, answer: Answer) -> None:
        np.testing.assert_allclose(getattr(answer.result, self.name), self.values, atol=1e-3)


@dataclass(frozen=True)
class Mask:
    """The class of each pixel (H, W)."""

    mask: Any

    def check(self, answer: Answer) -> None:
        np.testing.assert_array_equal(answer.result.mask, self.mask)


@dataclass(frozen=True)
class Masks:
    """Whether each label is present at each pixel (C, H, W)."""

    masks: Any

    def check(self, answer: Answer) -> None:
        np.testing.assert_array_equal(answer.result.masks, self.masks)


@dataclass(frozen=True)
class Points:
    """x and y of each point, in the image's pixels."""

    points: tuple[tuple[float, float], ...]
    confidence: float | None = None

    def check(self, answer: Answer) -> None:
        np.testing.assert_allclose(answer.result.keypoints, self.points, atol=1e-2)
        if self.confidence is not None:
            np.testing.assert_allclose(answer.result.confidence, self.confidence, atol=1e-2)
