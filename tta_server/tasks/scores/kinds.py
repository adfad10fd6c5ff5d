"""What a model's scores are, for vectors (C,) and maps (C, H, W) alike: the class axis comes first."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import FORBID_EXTRA

Floats = NDArray[np.float32]
TINY = np.float32(1e-30)
"""Keeps logarithms and divisions by a sum of 0 defined."""
SLACK = 1e-5
"""Error of a merged score by rounding, at most."""
EDGE = np.float32(1e-6)
"""Distance from 0 and 1 that probabilities keep where logits are made of them."""


@dataclass(frozen=True, slots=True)
class ScoresOutput:
    """`output:` of a model that scores classes: the unit of its scores, and the output's name if it has several."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LabelsOutput:
    """As `ScoresOutput`, for labels that may be present together.

    `threshold` is the least probability of a label that is present.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities"]
    name: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold takes a probability over 0 and under 1, not {self.threshold:g}")


def log_softmax(z: Floats) -> Floats:
    shifted: Floats = z - z.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return shifted


def softmax(z: Floats) -> Floats:
    p: Floats = z - z.max(axis=0)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
    return p


def sigmoid(z: Floats) -> Floats:
    p: Floats = 0.5 + 0.5 * np.tanh(0.5 * z)
    return p


def one_hot(z: Floats) -> Floats:
    """1 for the largest score of each vector or pixel, else 0; ties to the lower class."""
    winners = z.argmax(axis=0)
    won: Floats = (winners == np.arange(len(z)).reshape(-1, *(1,) * winners.ndim)).astype(np.float32)
    return won


def unit_sum(values: Floats) -> Floats:
    shares: Floats = values / np.maximum(values.sum(axis=0), TINY)
    return shares


def is_finite(z: Floats) -> bool:
    """Whether each vector's or pixel's largest score is finite: -inf rules a class out, NaN and +inf spoil all."""
    top = z.max(axis=0)
    return isfinite(top) if z.ndim == 1 else bool(np.isfinite(top).all())


def are_numbers(z: Floats) -> bool:
    """As `is_finite` for labels that may be present together: -inf may rule out all of them."""
    return not np.any(np.isnan(z) | (z == np.inf))


def identity(values: Floats) -> Floats:
    return values


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """How a model's scores become probabilities, logits and logarithms of probabilities.

    `stated` is the kind as tta.yaml has it; of `exclusive` classes one is true.
    """

    stated: str
    exclusive: bool
    probabilities: Callable[[Floats], Floats]
    logits: Callable[[Floats], Floats]
    log_probabilities: Callable[[Floats], Floats]


def _log(p: Floats) -> Floats:
    return np.log(np.maximum(p, TINY))


def _logit(p: Floats) -> Floats:
    """Logits of probabilities, which are kept EDGE away from 0 and 1."""
    inside = np.clip(p, EDGE, 1 - EDGE)
    z: Floats = np.log(inside) - np.log1p(-inside)
    return z


CLASS_KINDS = {
    "logits": ScoreKind("logits", True, softmax, identity, log_softmax),
    "probabilities": ScoreKind("probabilities", True, identity, _log, _log),
}
"""Kinds of scores of classes, of which one is true."""

LABEL_KINDS = {
    "logits": ScoreKind("logits", False, sigmoid, identity, lambda z: -np.logaddexp(np.float32(0), -z)),
    "probabilities": ScoreKind("probabilities", False, identity, _logit, _log),
}
"""Kinds of scores of labels, of which any may be present."""
