"""Colour order of a detector, measured on images without labels: by the scores of its boxes that are clear."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tta_server.imaging.formats.header import Raster
from tta_server.imaging.formats.samples import raster_size
from tta_server.imaging.normalization import Channels
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.onboarding.evidence import Fact, Finding, Note
from tta_server.onboarding.measured.images import plain_view
from tta_server.onboarding.measured.information import decide, totals
from tta_server.repository.model import Model
from tta_server.tasks import ImageFrame
from tta_server.tasks.boxes.results import CLEAR
from tta_server.views.view import View

AHEAD = 1.05
"""Variants of resizing move the sum by under 1 %, wrong colours by 15 %."""
COLORS = ("RGB", "BGR")


class BoxMeasurement:
    """Sums of the scores of clear boxes by image and order of colours; mean and std are in the model's order."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._ways = [replace(model.preprocessing, channels=Channels(color)) for color in COLORS]
        self._found: list[Sequence[float]] = []

    def add(self, raster: Raster) -> None:
        """Run an image by both orders. Raises the error of the model."""
        self._found.append([self._clear(way, raster) for way in self._ways])

    def _clear(self, way: Preprocessing, raster: Raster) -> float:
        size = raster_size(raster)
        placement = way.place(View(), size)
        outputs = self._model.backend.infer(plain_view(way, raster))
        seen = self._model.task.decode(outputs, 0, placement, ImageFrame(size, placement, 1))
        scores = seen.boxes.score
        return float(scores[scores > CLEAR].sum())

    def findings(self) -> Iterator[Finding]:
        """The colour order, if one is ahead."""
        verdict = decide(totals(np.array(self._found).T), {name: [i] for i, name in enumerate(COLORS)}, AHEAD)
        (name, most), (other, less) = verdict.ranked
        source = (
            f"measured on {len(self._found)} images: scores of boxes over {CLEAR} sum to {most:.4g} ({name}) against "
            f"{less:.4g} ({other})"
        )
        yield Fact("input.color", name, source) if verdict.is_settled else Note(f"input.color: cannot tell, {source}")
