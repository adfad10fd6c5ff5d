"""A request's options, checked against its model: which views run, how they are merged, when they stop."""

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

from tta_server.errors import InvalidInput, shown
from tta_server.repository.calibration import Calibration
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import StopRule, StopSpec, read_stop
from tta_server.tasks import ResponseFormat, ResponseSpec
from tta_server.tasks.sums import SumSpec
from tta_server.views.presets import read_policy
from tta_server.views.view import Policy, View

MAX_POLICY = 8192
"""The most characters of a policy in a request: reading a longer one takes tens of milliseconds."""
PLAN_BYTES, VIEW_BYTES = 4000, 2000
"""Bytes of a cached plan by itself and for each view of its policy, measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a request may override, under the same names in every protocol; None means the model's own value.

    `policy` is a preset's name, or JSON: a list of views. `min_views` is a number or 'all'. Where `tensors` are named,
    the answer is these and no prediction; else `format` says what is made of the result at once. `masks` is 'png' or
    'rle', which only scoring sets.
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
    format: ResponseFormat = ResponseFormat.JSON
    masks: str = "png"


@dataclass(frozen=True, eq=False)
class Plan:
    """Options resolved for a model: the policy's prefix `views` may run, and its first `mandatory` views must."""

    model: Model
    policy: Policy
    views: tuple[View, ...]
    mandatory: int
    merge: str
    stop: StopSpec
    rule: StopRule
    wanted: ResponseSpec

    @cached_property
    def answer_key(self) -> Hashable:
        """Equal for plans of one loaded model with which an image gets the same answer and receipt."""
        policy, names = self.policy, tuple(view.name for view in self.policy.views)
        spelled = policy.digest, policy.name, policy.version, names
        return spelled, len(self.views), self.mandatory, self.merge, self.stop, self.wanted

    @cached_property
    def calibration(self) -> Calibration | None:
        """The model's calibration if it was made for this policy and merge, else None."""
        calibration = self.model.calibration
        return calibration if calibration and calibration.matches(self.policy.digest, self.merge) else None

    def expected_gain(self, margin: float, done: int) -> float:
        """How much one more view is expected to change, in [0, 1].

        With a calibration it is the probability of another top class after `done` views, else 1 - margin.
        """
        return self.calibration.expected_gain(margin, done) if self.calibration else 1.0 - margin

    @cached_property
    def keeps_view_results(self) -> bool:
        """Whether the result is made of each view's own result too."""
        return self.model.task.keeps_view_results(self.wanted)

    @cached_property
    def sums(self) -> SumSpec | None:
        """How a graph may sum the views of this plan; None where each one's prediction is needed."""
        if self.stop.name == "tolerance":  # the standard error is made of the views' values
            return None
        spec = self.model.task.sums(self.merge, self.wanted)
        by_class = any(isinstance(view.weight, tuple) for view in self.views)
        return None if spec is None or (by_class and not spec.by_class) else spec


def make_plan(model: Model, options: Options) -> Plan:
    """Resolves options, cached by model. Budget and priority are not part of a plan. Raises InvalidInput."""
    key = replace(options, budget_ms=None, priority=Priority.INTERACTIVE)
    return model.cache.get(key, lambda: _plan(model, key), plan_bytes)


def is_quick(model: Model, options: Options) -> bool:
    """True if `make_plan` takes less than a millisecond: unless a list of views is not cached."""
    return options.policy is None or not _is_list(options.policy) or (_policy, options.policy) in model.cache


def plan_bytes(plan: Plan) -> int:
    """Memory that a cached plan takes, in bytes."""
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
            options.include,
            _count("top_k", options.top_k, max(1, len(config.labels))),
            options.tensors,
            options.format,
            options.masks,
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


def _rule(model: Model, stop: StopSpec, policy: Policy, merge: str, is_default: bool) -> StopRule:
    try:
        return model.stop_rule(stop, policy, merge)
    except InvalidInput as error:
        if is_default:
            raise InvalidInput(
                f"{error}; this is {model.name}'s default stop rule; choose another, such as stop=all"
            ) from None
        raise


def _count(key: str, value: int | None, default: int) -> int:
    """A count of at least 1 and at most `default`, which is also the value of None. Raises InvalidInput."""
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
    """A request's budget in ms: at most the model's maximum, by default the model's default. Raises InvalidInput."""
    budget = model.config.budget
    if requested is None:
        return budget.default_ms
    if not math.isfinite(requested) or requested <= 0:
        raise InvalidInput(
            f"budget_ms takes a number over 0 and up to {budget.max_ms:g} for {model.name}, not {requested:g}"
        )
    return min(requested, budget.max_ms)
