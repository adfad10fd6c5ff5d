"""What a request asks for, checked against its model: which views, merged how, within what budget."""

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property

from tta_server.errors import InvalidInput, shown
from tta_server.repository.calibration import Calibration
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import StopRule, StopSpec, read_stop
from tta_server.tasks import ResponseSpec
from tta_server.views.presets import read_policy
from tta_server.views.view import Policy, View

MAX_POLICY = 8192
"""Characters of a request's own policy: longer ones would hold the door for tens of milliseconds."""
PLAN_BYTES, VIEW_BYTES = 4000, 2000
"""What a cached plan takes by itself and for each view of its policy, measured."""


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
    wanted: ResponseSpec

    @cached_property
    def calibration(self) -> Calibration | None:
        """What is known of its views' worth; None where it is not the policy and merge that were calibrated."""
        known = self.model.calibration
        return known if known and known.matches(self.policy.digest, self.merge) else None

    def expected_gain(self, margin: float, done: int) -> float:
        """How much one more view is expected to change: the chance of another top class if calibration knows it, else
        more for a smaller margin."""
        known = self.calibration
        return known.expected_gain(margin, done) if known else 1.0 - margin

    @cached_property
    def keeps_remarks(self) -> bool:
        """Whether each view's own result is told, and so kept."""
        return self.model.task.keeps_remarks(self.wanted)


def make_plan(model: Model, options: Options) -> Plan:
    """Raises InvalidInput that says what was wrong and what is allowed. Budget and priority are not part of a plan."""
    key = replace(options, budget_ms=None, priority=Priority.INTERACTIVE)
    return model.cache.get(key, lambda: _plan(model, key), plan_bytes)


def is_quick(model: Model, options: Options) -> bool:
    """Whether `make_plan` takes less than a millisecond: all but an own list of views that was not asked for lately."""
    return options.policy is None or not _is_list(options.policy) or (_policy, options.policy) in model.cache


def plan_bytes(plan: Plan) -> int:
    return PLAN_BYTES + VIEW_BYTES * len(plan.policy.views)


def _plan(model: Model, options: Options) -> Plan:
    config = model.config
    policy = _policy(model, options.policy)
    views = policy.views[: _count("max_views", options.max_views, len(policy.views))]
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
        wanted=ResponseSpec(
            options.include, _count("top_k", options.top_k, max(1, len(config.labels))), options.tensors
        ),
    )


def _policy(model: Model, spec: str | None) -> Policy:
    if spec is None:
        return model.policy
    if len(spec) > MAX_POLICY:
        raise InvalidInput(f"policy has {len(spec)} characters; at most {MAX_POLICY} are taken")
    return model.cache.get(
        (_policy, spec),
        lambda: _read_policy(model, spec),
        lambda policy: PLAN_BYTES + 4 * len(spec) + VIEW_BYTES * len(policy.views),
    )


def _is_list(spec: str) -> bool:
    return spec.lstrip().startswith(("[", "{"))


def _read_policy(model: Model, spec: str) -> Policy:
    if not _is_list(spec):
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


def _count(key: str, value: int | None, default: int) -> int:
    """A count of at least 1; more than there is means all there is."""
    if value is None:
        return default
    if value < 1:
        raise InvalidInput(f"{key} takes a whole number of at least 1, not {value}")
    return min(value, default)


def _min_views(requested: int | str | None, default: int | str, planned: int) -> int:
    if requested is None:
        return planned if default == "all" else min(int(default), planned)
    if requested == "all":
        return planned
    if not isinstance(requested, int) or requested < 1:
        raise InvalidInput(f"min_views takes a whole number of at least 1, or 'all', not {shown(requested)}")
    if requested > planned:
        raise InvalidInput(f"min_views is {requested}, but only {planned} views are planned; 'all' means all of them")
    return requested


def budget_ms(model: Model, requested: float | None) -> float:
    """The request's budget, at most the model's longest, or the model's default; raises InvalidInput."""
    budget = model.config.budget
    if requested is None:
        return budget.default_ms
    if not math.isfinite(requested) or requested <= 0:
        raise InvalidInput(
            f"budget_ms takes a number over 0 and up to {budget.max_ms:g} for {model.name}, not {requested:g}"
        )
    return min(requested, budget.max_ms)
