"""Models, policies and quotes as JSON, for the HTTP interface and the command line."""

import math
from typing import Any

from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Quote
from tta_server.serving.deadline import Deadline
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Plan
from tta_server.views.geometry import Size
from tta_server.views.guarantees import contract
from tta_server.views.presets import PRESETS, preset
from tta_server.views.spec import PRIMITIVES
from tta_server.views.view import Border


def describe_model(model: Model) -> dict[str, Any]:
    """The answer of `GET /v1/models/{name}`."""
    config = model.config
    return {
        "name": model.name,
        "version": model.version,
        "task": config.task,
        "description": config.description,
        "labels": list(config.labels),
        "input": config.input.model_dump(mode="json"),
        "policy": {
            "name": model.policy.name,
            "version": model.policy.version,
            "digest": model.policy.digest,
            "views": [view.name for view in model.policy.views],
        },
        "merge": model.merge,
        "merges": list(model.task.merges),
        "symmetries": list(config.symmetries),
        "limits": config.limits.model_dump(),
        "budget": config.budget.model_dump(),
        "stop": config.stop.to_json(),
        "stops": list(model.task.stops),
        "include": list(model.task.includes),
        "warnings": [finding.sentence for finding in model.observed.warnings],
        "checks_off": [name for name, on in config.checks.items() if not on],
    }


def describe_failed(name: str, reason: str) -> dict[str, Any]:
    """As `describe_model`, for a model that can't be loaded: only what is known of it, and why."""
    return {
        "name": name,
        "version": None,
        "task": None,
        "description": "",
        "state": "failed",
        "reason": reason,
    }


def model_notes(model: Model) -> list[str]:
    """What is said of a model when it is loaded: its warnings, and the checks that are off."""
    warnings = [f"{finding.sentence} (check {finding.check})" for finding in model.observed.warnings]
    return warnings + [f"tta.yaml switches the check {name} off" for name, on in model.config.checks.items() if not on]


def describe_quote(size: Size, plan: Plan, deadline: Deadline, quote: Quote) -> dict[str, Any]:
    """The answer of `GET /v1/models/{name}/quote`: the scheduler's upper estimates; a view ends with its last tile."""
    known, tiles = plan.calibration, make_layout(plan, size).tiles
    by_views = [
        {
            "views": views,
            "ms": round(seconds * 1e3, 3),
            "disagreement": known.disagreement[views - 1] if known else None,
        }
        for views, seconds in enumerate(quote.ends[::tiles], plan.mandatory)
    ]
    reached = quote.views // tiles - plan.mandatory
    return {
        "model": plan.model.name,
        "image": {"width": size.width, "height": size.height},
        "budget_ms": deadline.budget_ms,
        "admitted": quote.wait == 0,
        "retry_after_ms": math.ceil(quote.wait * 1e3),
        "views": quote.views // tiles if reached >= 0 else 0,
        "planned": len(plan.views),
        "expected": _expected_views(plan),
        "ms": by_views[reached]["ms"] if reached >= 0 else None,
        "by_views": by_views,
    }


def _expected_views(plan: Plan) -> float | None:
    """The mean number of views that the stop rule takes on one slot, without a deadline; None if it is not known."""
    if plan.stop.name == "all":
        return len(plan.views)
    if plan.stop.name != "epsilon" or plan.calibration is None:
        return None
    mean = plan.calibration.threshold(plan.stop.value or 0.0).mean_views
    return min(max(mean, plan.mandatory), len(plan.views))


def describe_policies() -> dict[str, Any]:
    """The answer of `GET /v1/policies`: presets, primitives and border rules of views, and guarantees of undoing them.

    The presets are those of a model whose preprocessing crops.
    """
    return {
        "presets": [
            {"name": name, "description": about, "views": [v.name for v in preset(name, crops=True).views]}
            for name, (about, _) in PRESETS.items()
        ],
        "primitives": list(PRIMITIVES),
        "borders": list(Border),
        "contract": [cell.to_dict() for cell in contract()],
    }
