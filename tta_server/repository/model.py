"""A loaded model: its configuration, policy and backend, and the checks of policies and stop rules against it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tta_server.backends import CPU, Backend
from tta_server.errors import InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.cache import ByteCache
from tta_server.repository.calibration import Calibration
from tta_server.repository.checks import spatial_axes
from tta_server.repository.config import ModelConfig
from tta_server.repository.lifetime import Lifetime
from tta_server.repository.pipeline import Pipeline
from tta_server.repository.triton_ensemble import Ensemble
from tta_server.scheduling.stopping import All, Certain, Confident, Precise, Settled, StopRule, StopSpec
from tta_server.tasks import Task
from tta_server.tasks.checks import Finding
from tta_server.views.geometry import Size
from tta_server.views.view import Policy, Symmetries, View


@dataclass(frozen=True, slots=True)
class Observed:
    """What running test images showed of a model: warnings, and whether its batches may hold several rows."""

    warnings: Sequence[Finding] = ()
    can_batch: bool = True


WARM_SIZE = Size(256, 256)
"""Image size with which a model of free size is warmed up and its cost measured."""

CACHE_BYTES = 16_000_000
"""Bytes of cached policies, plans and layouts per model."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    `cache` holds values derived from the model for requests, so that they do not outlive it. `lifetime` counts the uses
    of `backend`: admitted jobs and running batches. `observed` is set once test images were run. `pipeline`
    makes its views where it runs, `ensemble` in the server that runs it; with neither they are made one by one.
    `digest` is that of its files, tta.yaml, policy and calibration; empty unless `load_model` made it.
    """

    name: str
    version: str
    config: ModelConfig
    task: Task[Any, Any]
    preprocessing: Preprocessing
    symmetries: Symmetries
    policy: Policy
    backend: Backend
    calibration: Calibration | None = None
    pipeline: Pipeline | None = None
    ensemble: Ensemble | None = None
    digest: str = ""
    observed: Observed = field(default=Observed(), init=False, repr=False)
    cache: ByteCache = field(init=False, repr=False)
    lifetime: Lifetime = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Create a new cache and lifetime, so that another application may serve the model."""
        object.__setattr__(self, "cache", ByteCache(CACHE_BYTES))
        object.__setattr__(self, "lifetime", Lifetime(self.backend.close))

    def retire(self) -> None:
        """Release the cache now, and close the backend when no admitted job and no running batch uses it.

        Repeated calls do nothing.
        """
        self.cache.close()
        self.lifetime.retire()

    def observe(self, observed: Observed) -> None:
        """Set what test images showed."""
        object.__setattr__(self, "observed", observed)

    @property
    def can_batch(self) -> bool:
        """Whether a batch may hold several rows."""
        return self.task.can_batch and self.backend.signature.shape[0] != 1 and self.observed.can_batch

    def is_checked(self, check: str) -> bool:
        """Return whether a check is on, which `checks:` in tta.yaml may switch off."""
        return self.config.checks.get(check, True)

    def remarks(self, prediction: Any) -> Sequence[Finding]:
        """What a prediction shows to be wrong in tta.yaml, by the checks that are on."""
        found = self.task.remarks(prediction)
        return [each for each in found if self.is_checked(each.check)] if found else ()

    @property
    def has_low_precision(self) -> bool:
        """Whether the backend computes with fewer bits than its outputs have."""
        return self.backend.device != CPU and getattr(self.config.backend, "precision", "exact") != "exact"

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def merge(self) -> str:
        """Merge of `tta.yaml`, else the task's default."""
        return self.config.merge or self.task.merges[0]

    def stop_rule(self, spec: StopSpec, policy: Policy, merge: str) -> StopRule:
        """Return the stop rule for a policy and merge; raise InvalidInput if its guarantee does not hold for them."""
        if spec.name not in self.task.stops:
            raise InvalidInput(
                f"stop {spec.name} is not available for {self.task.name}; available: {', '.join(self.task.stops)}"
            )
        if spec.value is None and spec.name == "all":
            return All()
        if spec.name == "epsilon":
            return Confident(self._matching_calibration(policy, merge).threshold(spec.value or 0.0).threshold)
        try:
            if spec.name == "tolerance":
                self.task.check_mean(merge)
                return Precise(spec.value or 0.0)
            self.task.check_bounded(merge, [view.weight for view in policy.views])
        except InvalidInput as mistake:
            raise InvalidInput(f"stop {spec}: {mistake}") from None
        return Certain() if spec.value is None else Settled(spec.value)

    def _matching_calibration(self, policy: Policy, merge: str) -> Calibration:
        """Return the calibration; raise InvalidInput if there is none for this policy and merge."""
        if self.calibration is None:
            raise InvalidInput(
                f"stop epsilon needs a calibration of {self.name}: run `tta-server calibrate {self.name} --data DIR`"
            )
        if not self.calibration.matches(policy.digest, merge):
            raise InvalidInput(
                f"stop epsilon is calibrated only for {self.name}'s own policy with merge {self.calibration.merge}; "
                "use these, or another stop rule"
            )
        return self.calibration

    def check_views(self, policy: Policy) -> None:
        """Raise InvalidInput, naming the view, if a policy breaks labels or does not fit the model's input."""
        for view in policy.views:
            self.symmetries.check(view)
            self._check_fit(view)
            weights = view.weight if isinstance(view.weight, tuple) else ()
            if weights and len(weights) != len(self.config.labels):
                each = f", or one for each of the {len(self.config.labels)} labels" if self.config.labels else ""
                raise InvalidInput(f"view {view.name!r} has {len(weights)} weights; give one number{each}")

    def _check_fit(self, view: View) -> None:
        """Raise InvalidInput if a view does not fit a model of fixed input size."""
        size = self.preprocessing.size
        if size is None:
            return
        fixed = self.spatial != (None, None)
        if view.geometry.swaps and size.width != size.height and (fixed or self._letterboxed):
            raise InvalidInput(
                f"view {view.name!r} swaps width and height, which does not fit this model's input of {size}"
            )
        if any(abs(v) >= min(size) / 2 for v in view.geometry.offset):
            raise InvalidInput(
                f"view {view.name!r} shifts by {max(map(abs, view.geometry.offset)):g} pixels; it must shift by less "
                f"than half of this model's input of {size}"
            )
        least = self._min_scale
        if view.scale < least - 1e-9:
            raise InvalidInput(
                f"view {view.name!r} has a scale of {view.scale:g}; this model's input needs at least {least:g}"
            )

    @property
    def spatial(self) -> tuple[int | None, int | None]:
        """(height, width) of the input in the model file; None is a free axis."""
        return spatial_axes(self.backend.signature, self.config.input.layout)

    @property
    def _letterboxed(self) -> bool:
        return self.preprocessing.resize is Resize.LETTERBOX

    @property
    def _min_scale(self) -> float:
        """Smallest scale with which the canvas fills the window."""
        prep = self.preprocessing
        if prep.size is None or self._letterboxed:
            return 0.0
        if prep.resize is Resize.SHORT:
            return max(prep.size) / prep.resize_to
        return max(part / whole for part, whole in zip(prep.size, prep.crop_from or prep.size, strict=True))
