"""Asks an ensemble that `tta-server export-triton` wrote: an image's views as its inputs, its outputs merged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.backends import Outputs, Tensor
from tta_server.compiled.triton_configs import LADDER
from tta_server.errors import BackendFailed, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.repository.model import Model
from tta_server.serving.ensemble_requests import Item, make_request, read_sums
from tta_server.serving.executor import read_row
from tta_server.serving.image import Image, ImageViews, ViewError, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.merged_views import MergedViews
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.summing import sums_of
from tta_server.tasks import Result
from tta_server.tasks.sums import Sums
from tta_server.views.geometry import Size


def ensemble_plan(model: Model, policy: str | None = None) -> Plan:
    """The plan of an ensemble, which runs all views of a policy, by default the model's. Raises InvalidInput."""
    return make_plan(model, Options(policy=policy, stop="all", min_views="all"))


@dataclass(frozen=True, slots=True)
class EnsembleRequest:
    """Inputs and names of outputs of the ensemble, for some entries of the layout that are of one size."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    entries: Sequence[int]


class EnsembleImage:
    """An image's views as requests to an ensemble, and their merged result.

    `left_out` names the views whose outputs hold NaN or infinity.
    """

    def __init__(self, model: Model, image: Image, policy: str | None = None, rows: int = LADDER[-1]) -> None:
        """`image` is an encoded image or upright RGB pixels; a request has at most `rows` rows.

        Raises InvalidInput, UnsupportedMedia or TooLarge.
        """
        plan = ensemble_plan(model, policy)
        source = read_source(image, Limits(), model.preprocessing.rendering)
        self._views = views = ImageViews(plan, make_layout(plan, source.size), source.size)
        self._sums = sums_of(views)
        if self._sums is None and plan.sums is not None:
            raise InvalidInput(
                f"the image is {source.size}, which {model.name} looks at in {views.layout.tiles} tiles, and the "
                "ensemble sums whole images only; send a smaller image, or run tta-server"
            )
        views.decode(source)
        self._rows = rows
        self._merged = MergedViews(views, plan.keeps_view_results and views.layout.tiles == 1)
        self._found: list[int] = []
        self.left_out: list[str] = []

    def requests(self) -> Iterator[EnsembleRequest]:
        """All requests, of at most `rows` views of one size each."""
        by_size: dict[Size, list[int]] = {}
        for entry in range(len(self._views.layout.buckets)):
            by_size.setdefault(self._views.input_size(entry), []).append(entry)
        for entries in by_size.values():
            for first in range(0, len(entries), self._rows):
                yield self._request(entries[first : first + self._rows])

    def _request(self, entries: Sequence[int]) -> EnsembleRequest:
        request = make_request(self._items(entries), self._sums)
        return EnsembleRequest(request.inputs, request.outputs, entries)

    def _items(self, entries: Sequence[int]) -> list[Item]:
        canvases = [self._views.canvas(entry) for entry in entries]
        return [
            Item(self._views, entry, canvas)
            for entry, canvas in zip(entries, canvases, strict=True)
            if canvas is not None
        ]

    def add(self, request: EnsembleRequest, outputs: Outputs) -> None:
        """Merge the ensemble's outputs for a request. Raises BackendFailed if they can't be read."""
        sums: Mapping[ImageViews, Sums] = {}
        if self._sums is None:
            sound = self._read(request.entries, outputs)
        else:
            found, sums = read_sums(self._items(request.entries), self._sums, outputs)
            sound = found.tolist()
        for entry, is_sound in zip(request.entries, sound, strict=True):
            if is_sound:
                self._found.append(entry)
            else:
                self.left_out.append(self._views.view(entry).name)
        for own in sums.values():
            _raise_first(self._merged.add_sums([(entry, None) for entry in request.entries], own))

    def _read(self, entries: Sequence[int], outputs: Outputs) -> Sequence[bool]:
        """Merge rows one by one; returns which are sound."""
        found = [(entry, read_row(self._views, entry, outputs, row)) for row, entry in enumerate(entries)]
        usable = [(entry, each) for entry, each in found if not isinstance(each, ViewError)]
        _raise_first(self._merged.add(usable))
        return [not isinstance(each, ViewError) for _, each in found]

    def result(self) -> Result:
        """The merged result of all requests added so far. Raises BackendFailed if there is no view in it."""
        if not self._found:
            raise BackendFailed("no view has an output without NaN and infinity")
        plan = self._views.plan
        kept = [own for entry in sorted(self._found) if (own := self._merged.result_of(entry)) is not None]
        merged: Any = self._merged.accumulator.result()
        return plan.model.task.result(merged, kept, self._views.frame, plan.wanted)


def _raise_first(problems: Mapping[int, ViewError]) -> None:
    for problem in problems.values():
        raise problem.failure
