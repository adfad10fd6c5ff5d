"""What a request gets for each image: the merged answer and its receipt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tta_server.tasks.render.rendering import Rendering
from tta_server.views.view import Policy, View


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """What a receipt has of a policy, where its views are not known."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """How an answer was made.

    `started` counts the views that were given to slots: the merged ones, and those that were running or failed when it
    was answered. `dropped` counts views whose output held NaN or infinity. `stop` is the rule, `stop_reason` why no
    more views ran. `open` is the share of the pixels that more views could have changed, None unless the reason is
    `settled`. `confidence` is how sure the model is of the answer, in [0, 1], None where its outputs don't say.
    `uncertainty` says how the views differ, empty unless included. `tiles` is the number of parts that each view is cut
    into. `levels` (low, high) are the values of a file of more than 8 bits that became 0 and 255, None where none were
    applied. `warnings` say where the model's output is not what its tta.yaml states. `stages_ms` sums the work of all
    slots, so it may exceed `elapsed_ms`. `cached`: another request's run made the answer; then the views are those of
    that run, while budget, times and id are this request's.
    """

    views: Sequence[dict[str, Any]]
    planned: int
    started: int
    dropped: int
    merge: str
    stop: str | dict[str, float]
    stop_reason: str | None
    confidence: float | None
    budget_ms: float
    elapsed_ms: float
    stages_ms: Mapping[str, float]
    policy: Policy | PolicyKey
    request_id: str
    open: float | None = None
    tiles: int = 1
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[float, float] | None = None
    warnings: Sequence[str] = ()
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "views": list(self.views),
            "planned": self.planned,
            "started": self.started,
            "dropped": self.dropped,
            "merge": self.merge,
            "stop": self.stop,
            "stop_reason": self.stop_reason,
            **({} if self.open is None else {"open": self.open}),
            "confidence": self.confidence,
            **({"uncertainty": dict(self.uncertainty)} if self.uncertainty else {}),
            **({} if self.tiles == 1 else {"tiles": self.tiles}),
            **({} if self.levels is None else {"levels": list(self.levels)}),
            **({"warnings": list(self.warnings)} if self.warnings else {}),
            **({"cached": True} if self.cached else {}),
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


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """One image's merged answer. `made_at` is in seconds of the monotonic clock."""

    model: str
    version: str
    task: str
    receipt: Receipt
    rendering: Rendering
    made_at: float = 0.0

    @property
    def result(self) -> Any:
        """The arrays, in a type of the task's own, such as `SegmentationResult`.

        None in a server, which keeps only what it sends.
        """
        return self.rendering.result

    @property
    def prediction(self) -> dict[str, Any]:
        """The part of the JSON answer that the task documents."""
        return self.rendering.prediction

    @property
    def picture(self) -> bytes | None:
        """A PNG where the task has one: a label mask."""
        return self.rendering.picture

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """By name, if the request named some: then there is no prediction and no picture."""
        return self.rendering.tensors

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_dict(self) -> dict[str, Any]:
        """The JSON of the HTTP answer."""
        return {
            "model": self.model,
            "version": self.version,
            "task": self.task,
            "prediction": self.prediction,
            "receipt": self.receipt.to_dict(),
        }


def view_entry(view: View) -> dict[str, Any]:
    """A view as a receipt lists it."""
    weight = list(view.weight) if isinstance(view.weight, tuple) else view.weight
    return {"name": view.name, "weight": weight}
