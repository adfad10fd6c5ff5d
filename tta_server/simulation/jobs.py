"""The requests that arrive in a simulation and what becomes of them. Pure; times are in seconds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta_server.calibration.fit import Run
from tta_server.errors import TTAError
from tta_server.scheduling.jobs import MERGED, Job, Outcome, Priority
from tta_server.scheduling.stopping import StopReason, StopRule


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """What requests of one kind share. Each shows one of `images`, as its run through all views was recorded.

    `expected_gain` takes a margin and the number of merged views.
    """

    model: str
    budget: float
    views: int
    mandatory: int
    priority: Priority
    rule: StopRule
    expected_gain: Callable[[float, int], float]
    images: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Request:
    """One image that arrives `at`, of an `entry` of the traffic; its client leaves `leaves_after` seconds later."""

    at: float
    entry: int
    spec: RequestSpec
    image: Run
    leaves_after: float = math.inf


@dataclass(eq=False, slots=True)
class SimulatedJob:
    """A request and what becomes of it: the evidence of stop rules, then an outcome and a latency.

    `outcome` is set when it is refused or its answer starts to be made, `made_at` when the answer is made, `latency`
    (since arrival) when the client has it.
    """

    request: Request
    job: "Job[SimulatedJob] | None" = None
    made_at: float = math.nan
    outcome: StopReason | TTAError | None = None
    latency: float = math.nan

    @property
    def merged(self) -> int:
        """How many views are merged; 0 for a refused request."""
        return self.job.progress.merged_count if self.job else 0

    def margin(self) -> float:
        return self.request.image.margins[self.merged - 1]

    def views_in_order(self) -> int:
        return self.job.progress.views_in_order(1) if self.job else 0

    def undecided(self) -> float:
        """1 if the remaining views, of equal weight, could overtake the leading class; else 0."""
        remaining = self.request.spec.views - self.merged
        return 0.0 if self.margin() * self.merged > remaining else 1.0

    def standard_error(self) -> float:
        """Infinite: a run holds classes, not values."""
        return math.inf

    @property
    def agrees(self) -> bool:
        """True if its top class is that of all the views that it requested."""
        labels = self.request.image.labels
        return labels[self.merged - 1] == labels[self.request.spec.views - 1]

    def merge(self, views: int) -> Outcome:
        """Merges a set of views, unless the job is settled."""
        spec = self.request.spec
        if self.job is None or self.job.merge(views) is None or self.merged == spec.views:
            return MERGED
        return Outcome(
            expected_gain=spec.expected_gain(self.margin(), self.merged),
            expected=spec.rule.expected_views(self, self.merged, spec.views),
            stop=spec.rule.decide(self),
        )
