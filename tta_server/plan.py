"""What a request asks for, checked against its model: which views, merged how, within what budget."""

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from tta_server.calibration import Calibration
from tta_server.costs import Bucket
from tta_server.errors import InvalidInput, shown
from tta_server.geometry import Size
from tta_server.jobs import Priority
from tta_server.policies import read_policy
from tta_server.preprocessing import Placement
from tta_server.repository import Model
from tta_server.stopping import StopRule, StopSpec, read_stop
from tta_server.tasks import Wanted
from tta_server.views import Policy, View

MAX_POLICY = 8192
"""Characters of a request's own policy: longer ones would hold the door for tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a request may override, under the same names at every door; None keeps the model's own.

    `policy` is a preset's name, or JSON: a list of views. `min_views` is a number or 'all'. Where `tensors` are named,
    the answer is these and no prediction.
    """

    budget_ms: float | None = None
    priority: Priority = Priority.INTERACTIVE
    policy: str | None = None
    max_views: int | None = None
    min_views: int | str | None = None
    merge: str | None = None
    stop: str | None = None
    top_k: int = 5
    include: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Plan:
    """Options and model resolved: `views` is the policy's prefix that may run, of which `mandatory` must."""

    model: Model
    policy: Policy
    views: tuple[View, ...]
    mandatory: int
    merge: str
    stop: StopSpec
    rule: StopRule
    wanted: Wanted

    @cached_property
    def calibration(self) -> Calibration | None:
        """What is known of its views' worth; None where it is not the policy and merge that were calibrated."""
        known = self.model.calibration
        return known if known and known.matches(self.policy.digest, self.merge) else None

    def worth(self, margin: float, done: int) -> float:
        """How much one more view is expected to change: the chance of another top class if calibration knows it, else
        more for a smaller margin."""
        known = self.calibration
        return known.worth(margin, done) if known else 1.0 - margin

    @cached_property
    def keeps_remarks(self) -> bool:
        """Whether each view's own result is told, and so kept."""
        return self.model.task.keeps_remarks(self.wanted)


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Where a plan's views lie for one image size: `tiles` entries for each view, one where the image is looked at
    whole. `plain` is where the plain view lies, of which tiles are parts."""

    plain: Placement
    placements: tuple[Placement, ...]
    buckets: tuple[Bucket, ...]
    tiles: int = 1

    def nbytes(self, plan: Plan) -> int:
        """What a job holds besides its image: a canvas for each content size, what is merged, and what is told of each
        view."""
        task, depth = plan.model.task, plan.model.preprocessing.depth
        canvases = sum(canvas.area * depth for canvas in {p.canvas for p in self.placements})
        kept = task.remark_bytes(self.plain) * len(plan.views) if plan.keeps_remarks and self.tiles == 1 else 0
        return canvases + kept + task.merged_bytes(self.plain, plan.wanted)


def forget_plans() -> None:
    """Lets go of cached plans, and so of their models."""
    _plan.cache_clear()
    make_layout.cache_clear()


def make_plan(model: Model, options: Options) -> Plan:
    """Raises InvalidInput that says what was wrong and what is allowed. Budget and priority are not part of a plan."""
    return _plan(model, replace(options, budget_ms=None, priority=Priority.INTERACTIVE))


@lru_cache(maxsize=128)
def _plan(model: Model, options: Options) -> Plan:
    config = model.config
    policy = _policy(model, options.policy)
    views = policy.views[: _whole("max_views", options.max_views, len(policy.views))]
    merge = model.merge if options.merge is None else options.merge
    if merge not in model.task.merges:
        raise InvalidInput(f"unknown merge {merge[:64]!r}; {model.name} knows {', '.join(model.task.merges)}")
    stop = config.stop if options.stop is None else read_stop(options.stop)
    if unknown := sorted(options.include - set(model.task.includes)):
        raise InvalidInput(f"unknown include {unknown[0][:64]!r}; {model.name} knows {', '.join(model.task.includes)}")
    if unknown := sorted(options.tensors - {spec.name for spec in model.task.tensor_specs}):
        known = ", ".join(spec.name for spec in model.task.tensor_specs)
        raise InvalidInput(f"unknown output {unknown[0][:64]!r}; {model.name} has {known}")
    return Plan(
        model=model,
        policy=policy,
        views=views,
        mandatory=_min_views(options.min_views, config.budget.min_views, len(views)),
        merge=merge,
        stop=stop,
        rule=_rule(model, stop, policy, merge, options.stop is None),
        wanted=Wanted(options.include, _whole("top_k", options.top_k, max(1, len(config.labels))), options.tensors),
    )


@lru_cache(maxsize=256)
def make_layout(plan: Plan, image: Size) -> Layout:
    """For an upright image of that size."""
    prep, name = plan.model.preprocessing, plan.model.name
    tiles = prep.tiles(image) or (None,)
    placements = tuple(prep.place(view, image, tile) for view in plan.views for tile in tiles)
    buckets = tuple(Bucket(name, p.tensor.height, p.tensor.width) for p in placements)
    return Layout(prep.place(View(), image), placements, buckets, len(tiles))


def _policy(model: Model, spec: str | None) -> Policy:
    if spec is None:
        return model.policy
    if len(spec) > MAX_POLICY:
        raise InvalidInput(f"policy has {len(spec)} characters; at most {MAX_POLICY} are taken")
    if not spec.lstrip().startswith(("[", "{")):
        policy = read_policy(spec, model.preprocessing.crops)
    else:
        try:
            views = json.loads(spec)
        except (ValueError, RecursionError):
            raise InvalidInput("policy is neither a preset's name nor a valid JSON list of views") from None
        policy = read_policy(views, model.preprocessing.crops)
    model.check_views(policy)
    return policy


def _rule(model: Model, stop: StopSpec, policy: Policy, merge: str, own: bool) -> StopRule:
    try:
        return model.stop_rule(stop, policy, merge)
    except InvalidInput as mistake:
        if own:
            raise InvalidInput(f"{mistake}; this is {model.name}'s own stop rule: ask for another, stop=all") from None
        raise


def _whole(key: str, value: int | None, default: int) -> int:
    """A count of at least 1; more than there is means all there is."""
    if value is None:
        return default
    if value < 1:
        raise InvalidInput(f"{key} takes a whole number of at least 1, not {value}")
    return min(value, default)


def _min_views(asked: int | str | None, default: int | str, planned: int) -> int:
    if asked is None:
        return planned if default == "all" else min(int(default), planned)
    if asked == "all":
        return planned
    if not isinstance(asked, int) or asked < 1:
        raise InvalidInput(f"min_views takes a whole number of at least 1, or 'all', not {shown(asked)}")
    if asked > planned:
        raise InvalidInput(f"min_views is {asked}, but only {planned} views are planned; 'all' means all of them")
    return asked


def budget_ms(model: Model, asked: float | None) -> float:
    """The request's budget, at most the model's longest, or the model's default; raises InvalidInput."""
    budget = model.config.budget
    if asked is None:
        return budget.default_ms
    if not math.isfinite(asked) or asked <= 0:
        raise InvalidInput(
            f"budget_ms takes a number over 0 and up to {budget.max_ms:g} for {model.name}, not {asked:g}"
        )
    return min(asked, budget.max_ms)
