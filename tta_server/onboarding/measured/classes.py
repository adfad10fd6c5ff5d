"""Colour order, crop and normalisation of a classifier, measured on images without labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Backend
from tta_server.imaging.formats.header import Raster
from tta_server.onboarding.choices import Values
from tta_server.onboarding.evidence import Fact, Finding, Note
from tta_server.onboarding.measured.candidates import NORMALIZATION, NORMALIZATIONS, Candidate
from tta_server.onboarding.measured.images import as_candidate, pixels_of, plain_view
from tta_server.onboarding.measured.information import Scores, Verdict, decide, information

AHEAD = 1.03
"""By which an option must be ahead: the means of ImageNet, CLIP and CIFAR differ by less, wrong colours by more."""
FIRST, KEPT = 32, 0.85
"""Images after which only candidates with this share of the best score are run on."""
LEAST = 0.1
"""Nats that the best candidate must have: with less, no answer depends on the image."""
COVERED, PER_CLASS = 0.8, 4
"""Share of the classes, or of as many as images of PER_CLASS each could show, that the answers must be of."""


class ClassMeasurement:
    """Probabilities of a classifier by candidate and image."""

    def __init__(self, backend: Backend, values: Values, candidates: Sequence[Candidate]) -> None:
        """Raises ConfigError for values of `input` that no image can be made by."""
        self._backend, self._values, self._candidates = backend, values, candidates
        self._layout = str(values.get("input.layout", "NCHW"))
        resizes = dict.fromkeys(candidate.resize for candidate in candidates)
        self._pixels = {resize: pixels_of(values, resize, backend.signature) for resize in resizes}
        self._running: Sequence[int] = range(len(candidates))
        self._found: Sequence[list[NDArray[Any]]] = [[] for _ in candidates]

    def add(self, raster: Raster) -> None:
        """Run an image by all candidates that are not far behind. Raises the error of the model."""
        running = [self._candidates[index] for index in self._running]
        pixels = {each: plain_view(self._pixels[each], raster) for each in {each.resize for each in running}}
        rows = [as_candidate(pixels[each.resize], each, self._values, self._layout) for each in running]
        for index, probabilities in zip(self._running, self._probabilities(rows), strict=True):
            self._found[index].append(probabilities)
        if self.images == FIRST:
            scores = self.scores().all
            self._running = [index for index in self._running if scores[index] >= KEPT * scores.max()]

    def _probabilities(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        name = str(self._values.get("output.name", next(iter(self._backend.signature.outputs))))
        can_batch = self._backend.signature.shape[0] is None and len({row.shape for row in rows}) == 1
        batches = [np.concatenate(rows)] if can_batch else rows
        scores = np.concatenate([self._backend.infer(batch)[name] for batch in batches])
        scores = scores.reshape(len(rows), -1).astype(np.float64)
        if self._values["output.kind"] == "probabilities":
            return np.asarray(np.clip(scores, 0, 1))
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    @property
    def images(self) -> int:
        return max(map(len, self._found))

    def scores(self) -> Scores:
        """How well each candidate fits."""
        return information([np.array(each) for each in self._found])

    def findings(self) -> Iterator[Finding]:
        """What is settled as facts, and what is not as notes."""
        scores = self.scores()
        if problem := self._problem(scores):
            yield Note(f"--images: cannot tell anything: {problem}")
            return
        color = self._verdict(scores, "color")
        yield from self._conclude("input.color", color, {"RGB": "RGB", "BGR": "BGR"})
        resizes = {str(each.resize): each.resize for each in self._candidates}
        yield from self._conclude("input.resize", self._verdict(scores, "resize"), resizes)
        yield from self._normalization(scores, color)

    def _problem(self, scores: Scores) -> str:
        """Why nothing can be concluded from these images; empty if something can."""
        best, classes = int(scores.all.argmax()), self._found[0][0].shape[0]
        if scores.all[best] < LEAST:
            return f"by no candidate do the answers depend on the {self.images} images; are they of the model's kind?"
        if scores.classes[best] >= COVERED * min(classes, self.images / PER_CLASS):
            return ""
        return (
            f"the answers for {self.images} images are mostly of {scores.classes[best]:.0f} of the model's {classes} "
            "classes, and on images of few classes wrong candidates may look better; give more images, of all classes"
        )

    def _normalization(self, scores: Scores, color: Verdict) -> Iterator[Finding]:
        """Scale, mean and std together; else the scale, which all that are close may share."""
        verdict = self._verdict(scores, "normalization")
        if len(verdict.ranked) == 1:
            return
        order = color.ranked[0][0]
        is_ordered = color.is_settled or len(NORMALIZATIONS[verdict.ranked[0][0]].mean) == 1
        if verdict.is_settled and is_ordered:
            for key, value in NORMALIZATIONS[verdict.ranked[0][0]].values(order).items():
                if key not in self._values:
                    yield Fact(key, value, self._source(verdict))
            return
        scales = self._groups(lambda each: f"{NORMALIZATIONS[str(each.normalization)].scale:g}")
        yield from self._conclude("input.scale", decide(scores, scales, AHEAD), {"255": 255, "1": 1})
        keys = " and ".join(key for key in NORMALIZATION[1:] if key not in self._values)
        yield Note(f"{keys}: cannot tell, {self._source(verdict)}")

    def _verdict(self, scores: Scores, attribute: str) -> Verdict:
        return decide(scores, self._groups(lambda each: str(getattr(each, attribute))), AHEAD)

    def _groups(self, name: Any) -> Mapping[str, Sequence[int]]:
        groups: dict[str, list[int]] = {}
        for index, candidate in enumerate(self._candidates):
            groups.setdefault(name(candidate), []).append(index)
        return groups

    def _conclude(self, key: str, verdict: Verdict, options: Mapping[str, Any]) -> Iterator[Finding]:
        if key in self._values or len(verdict.ranked) == 1:
            return
        if verdict.is_settled:
            yield Fact(key, options[verdict.ranked[0][0]], self._source(verdict))
        else:
            yield Note(f"{key}: cannot tell, {self._source(verdict)}")

    def _source(self, verdict: Verdict) -> str:
        (name, score), *others = verdict.ranked
        against = ", ".join(f"{other:.2f} ({each})" for each, other in others[:3])
        return f"measured on {self.images} images: {score:.2f} ({name}) against {against}"
