"""What a prediction comes to: the merged answer and its receipt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.views import Policy, View


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an answer says about itself.

    `dropped` counts views whose output held NaN or infinity. `stop` is the rule and `stop_reason` what ended it; `open`
    is the share of the pixels that more views could still have changed, of an answer that settled. `confidence` is the
    top class's probability, or the mean of that over the pixels. `stages_ms` adds up the work of all slots, so it may
    exceed `elapsed_ms`.
    """

    views: Sequence[dict[str, Any]]
    planned: int
    dropped: int
    merge: str
    stop: str | dict[str, float]
    stop_reason: str | None
    confidence: float
    budget_ms: float
    elapsed_ms: float
    stages_ms: Mapping[str, float]
    policy: Policy
    request_id: str
    open: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "views": list(self.views),
            "planned": self.planned,
            "dropped": self.dropped,
            "merge": self.merge,
            "stop": self.stop,
            "stop_reason": self.stop_reason,
            **({} if self.open is None else {"open": self.open}),
            "confidence": self.confidence,
            "budget_ms": self.budget_ms,
            "elapsed_ms": self.elapsed_ms,
            "stages_ms": dict(self.stages_ms),
            "policy": {
                "name": self.policy.name,
                "version": self.policy.version,
                "digest": self.policy.digest,
            },
            "request_id": self.request_id,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """`prediction` as the task documents it; `picture` is a PNG where the task has one (a label mask). `made_at` is in
    seconds of the monotonic clock."""

    model: str
    version: str
    task: str
    prediction: dict[str, Any]
    receipt: Receipt
    picture: bytes | None = None
    made_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON that HTTP answers."""
        return {
            "model": self.model,
            "version": self.version,
            "task": self.task,
            "prediction": self.prediction,
            "receipt": self.receipt.to_dict(),
        }


def view_entry(view: View) -> dict[str, Any]:
    """A view as receipts list it."""
    weight = list(view.weight) if isinstance(view.weight, tuple) else view.weight
    return {"name": view.name, "weight": weight}
