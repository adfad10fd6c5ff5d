"""What tta.yaml states of a model that scores, or names the class of, every pixel."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tta_server.tasks.base import FORBID_EXTRA


@dataclass(frozen=True, slots=True)
class MapsOutput:
    """`output:` of a segmentation model.

    `kind` says what the outputs are: scores [N, C, h, w], or [N, h, w, C] with `layout` NHWC; `classes`, the number of
    each pixel's class [N, h, w] or [N, 1, h, w]; or `queries`: two outputs, which `scores` and `masks` name, with the
    class logits [N, Q, C + 1] and the mask logits [N, Q, h, w] of Q segments. With `multilabel` labels may overlap:
    each is where its probability reaches `threshold`. `offset` is the place of a score in its cell (see
    `maps.OutputGrid`).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities", "classes", "queries"]
    name: str | None = None
    multilabel: bool = False
    threshold: float = 0.5
    offset: float = 0.5
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scores: str | None = None
    masks: str | None = None

    def __post_init__(self) -> None:
        for key in ("threshold", "offset"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} takes a number from 0 to 1, not {getattr(self, key):g}")
        if self.multilabel and self.kind in ("classes", "queries"):
            raise ValueError(f"kind: {self.kind} gives each pixel one class; leave multilabel out")
        if self.kind == "queries":
            self._check_queries()
        elif self.scores is not None or self.masks is not None:
            raise ValueError(f"scores and masks name the outputs of kind: queries; for kind: {self.kind} set name")

    def _check_queries(self) -> None:
        if self.name is not None:
            raise ValueError("kind: queries reads two outputs; set scores and masks instead of name")
        if self.layout != "NCHW":
            raise ValueError("kind: queries takes masks of shape [N, Q, h, w]; leave layout out")
