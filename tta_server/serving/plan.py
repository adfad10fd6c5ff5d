"""What a request asks for, checked against its model: which views, merged how, within what budget."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from tta_server.errors import InvalidInput, TooLarge, shown
from tta_server.imaging.preprocessing import Placement
from tta_server.repository.calibration import Calibration
from tta_server.repository.loader import Model
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import StopRule, StopSpec, read_stop
from tta_server.tasks import ResponseFormat, ResponseSpec
from tta_server.views.geometry import Size
from tta_server.views.presets import read_policy
from tta_server.views.view import Policy, View

MAX_POLICY = 8192
"""Characters of a request's own policy: longer ones would hold the door for tens of milliseconds."""
MAX_ENTRIES = 4096
"""Views times tiles of an image: laying out 4,050 takes 0.1 ms, or 6 where 200 views have a content size each."""
QUICK_VIEWS = 16
"""So many views of an image looked at in tiles are laid out in less than a millisecond."""
ENTRY_BYTES = 100
"""What a job notes of each of them."""
PLAN_BYTES, VIEW_BYTES, PLACEMENT_BYTES = 4000, 2000, 1500
"""What a cached plan takes by itself and for each view of its policy, and a layout for each placement, measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a request may override, under the same names at every door; None keeps the model's own.

    `policy` is a preset's name, or JSON: a list of views. `min_views` is a number or 'all'. Where `tensors` are named,
    the answer is these and no prediction; else `format` says what is made of the result at once.
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
        return known.worth(margin, done) if known else 1.0 - margin

    @cached_property
    def keeps_view_results(self) -> bool:
        """Whether the result is made of each view's own result too."""
        return self.model.task.keeps_view_results(self.wanted)


class Placements(Sequence[Placement]):
    """Where each view lies, or each tile of each view, in the order of a layout's entries; computed when asked for, and
    kept where an image is looked at whole."""

    def __init__(self, plan: Plan, image: Size) -> None:
        self._plan = plan
        self._image = image
        self._tiles = plan.model.preprocessing.tiles(image)
        self._kept: dict[int, Placement] = {}

    def __len__(self) -> int:
        return len(self._plan.views) * max(1, len(self._tiles))

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Placement]: ...
    def __getitem__(self, index: int | slice) -> Placement | Sequence[Placement]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        prep, index = self._plan.model.preprocessing, range(len(self))[index]
        if self._tiles:
            view, tile = divmod(index, len(self._tiles))
            return prep.place(self._plan.views[view], self._image, self._tiles[tile])
        if index not in self._kept:
            self._kept[index] = prep.place(self._plan.views[index], self._image)
        return self._kept[index]


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Where a plan's views lie for one image size: `tiles` entries for each view, one where the image is looked at
    whole. `plain` is where the plain view lies, of which tiles are parts; `canvases` are the sizes of the resized
    images that the views take."""

    plain: Placement
    placements: Placements
    buckets: tuple[Bucket, ...]
    canvases: frozenset[Size]
    tiles: int = 1

    def nbytes(self, plan: Plan) -> int:
        """What a job holds besides its image: a canvas for each content size, what is merged, what is told of each
        view, and what is noted of each entry."""
        task, depth = plan.model.task, plan.model.preprocessing.depth
        canvases = sum(canvas.area * depth for canvas in self.canvases)
        kept = (
            task.view_result_bytes(self.plain) * len(plan.views) if plan.keeps_view_results and self.tiles == 1 else 0
        )
        return canvases + kept + task.merged_bytes(self.plain, plan.wanted) + ENTRY_BYTES * len(self.buckets)


def make_plan(model: Model, options: Options) -> Plan:
    """Raises InvalidInput that says what was wrong and what is allowed. Budget and priority are not part of a plan."""
    key = replace(options, budget_ms=None, priority=Priority.INTERACTIVE)
    return model.cache.get(key, lambda: _plan(model, key), _plan_bytes)


def is_quick(model: Model, options: Options) -> bool:
    """Whether `make_plan` takes less than a millisecond: all but an own list of views that was not asked for lately."""
    return options.policy is None or not _is_list(options.policy) or (_policy, options.policy) in model.cache


def lays_out_quickly(plan: Plan) -> bool:
    """Whether `make_layout` takes less than a millisecond, whatever the image's size."""
    return not plan.model.preprocessing.tile or len(plan.views) <= QUICK_VIEWS


def _plan_bytes(plan: Plan) -> int:
    return PLAN_BYTES + VIEW_BYTES * len(plan.policy.views)


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
        wanted=ResponseSpec(
            options.include,
            _whole("top_k", options.top_k, max(1, len(config.labels))),
            options.tensors,
            options.format,
        ),
    )


def make_layout(plan: Plan, image: Size) -> Layout:
    """For an upright image of that size. Raises TooLarge for more than MAX_ENTRIES."""
    return plan.model.cache.get(
        (plan, image), lambda: _layout(plan, image), lambda layout: _plan_bytes(plan) + _layout_bytes(layout)
    )


def _layout_bytes(layout: Layout) -> int:
    kept = len(layout.placements) if layout.tiles == 1 else 0
    return PLAN_BYTES + 8 * len(layout.buckets) + PLACEMENT_BYTES * kept


def _layout(plan: Plan, image: Size) -> Layout:
    prep, name = plan.model.preprocessing, plan.model.name
    tiles = prep.tile_count(image)
    _check_entries(plan, image, tiles)
    alike: dict[tuple[object, ...], tuple[Bucket, ...]] = {}
    known: dict[Size, Bucket] = {}
    buckets: list[Bucket] = []
    for view in plan.views:
        kind = (view.scale, view.anchor, view.geometry.swaps)
        if kind not in alike:
            inputs = prep.input_sizes(view, image)
            known |= {size: Bucket(name, size.height, size.width) for size in set(inputs) - known.keys()}
            alike[kind] = tuple(known[size] for size in inputs)
        buckets += alike[kind]
    canvases = frozenset(prep.canvas_size(image, scale) for scale in {view.scale for view in plan.views})
    return Layout(prep.place(View(), image), Placements(plan, image), tuple(buckets), canvases, tiles)


def _check_entries(plan: Plan, image: Size, tiles: int) -> None:
    views = len(plan.views)
    if views * tiles <= MAX_ENTRIES:
        return
    taken = f"the image is {image}, which {plan.model.name} looks at in {tiles} tiles"
    fewer = "send a smaller image, or state a larger input.tile in the model's tta.yaml"
    if tiles > MAX_ENTRIES:
        raise TooLarge(f"{taken}; at most {MAX_ENTRIES} are taken: {fewer}")
    raise TooLarge(
        f"{taken}; with {views} views these are {views * tiles} inputs, and at most {MAX_ENTRIES} are taken: ask for "
        f"max_views={MAX_ENTRIES // tiles} or less, {fewer}"
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
