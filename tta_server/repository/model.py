"""A loaded model: what its author stated about it, and what its file says."""

from dataclasses import dataclass, field
from typing import Any

from tta_server.backends import Backend
from tta_server.errors import InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.cache import ByteCache
from tta_server.repository.calibration import Calibration
from tta_server.repository.checks import spatial_axes
from tta_server.repository.config import ModelConfig
from tta_server.repository.lifetime import Lifetime
from tta_server.scheduling.stopping import All, Certain, Confident, Precise, Settled, StopRule, StopSpec
from tta_server.tasks import Task
from tta_server.views.geometry import Size
from tta_server.views.view import Policy, Symmetries, View

WARM_SIZE = Size(256, 256)
"""A model of free size is warmed and priced with an image of this size."""

CACHE_BYTES = 16_000_000
"""Of policies, plans and layouts of one model."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model and everything that its author stated about it. `cache` has what was derived from it for requests,
    so that nothing of it outlives the model. `lifetime` counts uses of `backend`: admitted jobs and running batches.
    """

    name: str
    version: str
    config: ModelConfig
    task: Task[Any]
    preprocessing: Preprocessing
    symmetries: Symmetries
    policy: Policy
    backend: Backend
    calibration: Calibration | None = None
    cache: ByteCache = field(init=False, repr=False)
    lifetime: Lifetime = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """It is taken into service, maybe again by another application than before."""
        object.__setattr__(self, "cache", ByteCache(CACHE_BYTES))
        object.__setattr__(self, "lifetime", Lifetime(self.backend.close))

    def retire(self) -> None:
        """Its backend is closed now, or when its last admitted job is settled and no batch of it runs; what was derived
        from it is let go at once. Another time it does nothing."""
        self.cache.close()
        self.lifetime.retire()

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def merge(self) -> str:
        """The author's, else the task's usual one."""
        return self.config.merge or self.task.merges[0]

    def stop_rule(self, spec: StopSpec, policy: Policy, merge: str) -> StopRule:
        """Raises InvalidInput, saying what it takes, where a rule can't keep its promise."""
        if spec.name not in self.task.stops:
            raise InvalidInput(
                f"stop {spec.name} is not for {self.task.name}, which knows {', '.join(self.task.stops)}"
            )
        if spec.value is None and spec.name == "all":
            return All()
        if spec.name == "epsilon":
            return Confident(self._calibrated(policy, merge).threshold(spec.value or 0.0))
        try:
            if spec.name == "tolerance":
                self.task.check_mean(merge)
                return Precise(spec.value or 0.0)
            self.task.check_bounded(merge, [view.weight for view in policy.views])
        except InvalidInput as mistake:
            raise InvalidInput(f"stop {spec}: {mistake}") from None
        return Certain() if spec.value is None else Settled(spec.value)

    def _calibrated(self, policy: Policy, merge: str) -> Calibration:
        if self.calibration is None:
            raise InvalidInput(f"stop epsilon needs a calibration: run `tta-server calibrate {self.name} --data DIR`")
        if not self.calibration.matches(policy.digest, merge):
            raise InvalidInput(
                f"stop epsilon is calibrated for {self.name}'s own policy and merge {self.calibration.merge} only"
            )
        return self.calibration

    def check_views(self, policy: Policy) -> None:
        """Raises InvalidInput, naming the view, where a policy breaks labels or does not fit the model's input."""
        for view in policy.views:
            self.symmetries.check(view)
            self._check_fit(view)
            weights = view.weight if isinstance(view.weight, tuple) else ()
            if weights and len(weights) != len(self.config.labels):
                raise InvalidInput(
                    f"view {view.name!r} has {len(weights)} weights; one is taken"
                    + (f", or one for each of the {len(self.config.labels)} labels" if self.config.labels else "")
                )

    def _check_fit(self, view: View) -> None:
        size = self.preprocessing.size
        if size is None:
            return
        fixed = self.spatial != (None, None)
        if view.geometry.swaps and size.width != size.height and (fixed or self._letterboxed):
            raise InvalidInput(
                f"view {view.name!r} swaps width and height, which this model's input of {size} does not take"
            )
        if any(abs(v) >= min(size) / 2 for v in view.geometry.offset):
            raise InvalidInput(f"view {view.name!r} shifts by half of this model's input of {size} or more")
        least = self._least_scale
        if view.scale < least - 1e-9:
            raise InvalidInput(
                f"view {view.name!r} has a scale of {view.scale:g}; this model's input takes at least {least:g}"
            )

    @property
    def spatial(self) -> tuple[int | None, int | None]:
        """Height and width as the model file states them; None is free."""
        return spatial_axes(self.backend.signature, self.config.input.layout)

    @property
    def _letterboxed(self) -> bool:
        return self.preprocessing.resize is Resize.LETTERBOX

    @property
    def _least_scale(self) -> float:
        """Below this the canvas would not fill the window."""
        prep = self.preprocessing
        if prep.size is None or self._letterboxed:
            return 0.0
        return max(prep.size) / prep.resize_to if prep.resize is Resize.SHORT else 1.0
