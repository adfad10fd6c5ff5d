"""The checks that hold what tta.yaml states against what the model gives: their ids, and what they find."""

from collections.abc import Mapping
from dataclasses import dataclass

from tta_server.tasks.shapes import Outputs
from tta_server.views.geometry import Size


@dataclass(frozen=True, slots=True)
class Check:
    """What a check looks at, and whether it refuses a model, or an answer, that it finds wrong, or only warns."""

    about: str
    refuses: bool


CHECKS: Mapping[str, Check] = {
    "input.mean": Check("mean and std against scale: do they span what the scale leaves of 0 to 255?", True),
    "input.others": Check("functions of inputs beside the image against what inputs of their names usually are", False),
    "input.multiple": Check("an image of odd size, for a model of free size", True),
    "outputs.finite": Check("whether any test image gives outputs without NaN and infinity", True),
    "outputs.finite_always": Check("whether every test image does", False),
    "outputs.repeatable": Check("the same image twice in a row", False),
    "outputs.stateless": Check("the same image again after others", True),
    "batch.rows": Check("two images together: a row for each", False),
    "batch.independent": Check("two images together and alone: the same rows", False),
    "scores.type": Check("whether scores are floating point numbers", True),
    "scores.one_class": Check("one label where one class is always the answer", True),
    "scores.logits": Check("logits that look like probabilities: an activation is applied twice", True),
    "scores.probabilities": Check("probabilities outside of [0, 1]: an activation is missing", True),
    "scores.sum": Check("probabilities of classes that do not sum to 1", False),
    "maps.stride": Check("the size of score maps against the input's: a whole number of pixels a cell", True),
    "maps.classes": Check("class numbers of maps: whole, and with a label for each", True),
    "boxes.scores": Check(
        "scores of boxes against their stated kind: an activation is missing, or applied twice", True
    ),
    "boxes.units": Check("normalized boxes against pixels", True),
    "boxes.format": Check("boxes that end before they begin, reach beyond the input, or lie off their cells", True),
    "boxes.classes": Check("class numbers against the labels", True),
    "boxes.background": Check("a label for the background or for no object", True),
    "boxes.grid": Check("boxes that are offsets in a grid, not decoded", True),
    "points.units": Check("normalized points against pixels, and points in [-1, 1]", True),
    "points.scores": Check("confidences of points against their stated unit", True),
    "budget.default_ms": Check("the time of a request against the default budget", False),
}
"""By id, as `checks:` in tta.yaml has it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of a check: what is stated, what was found, the key and the value that would fit."""

    check: str
    sentence: str

    @property
    def refuses(self) -> bool:
        return CHECKS[self.check].refuses


@dataclass(frozen=True, slots=True)
class CardRun:
    """What a model gave for one test image, alone in its batch; `tensor` is the size of the model's input."""

    card: str
    outputs: Outputs
    tensor: Size
