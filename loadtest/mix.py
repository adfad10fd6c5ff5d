"""What the users of the load test send, and how they judge what comes back; the same over HTTP and gRPC.

Three requests in four are interactive; budgets are short, normal or long; six in seven are for clothing.
"""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.cases import BUDGETS_MS, DATA, IMAGES, MODELS

VIEWS = int(os.environ.get("TTA_LOAD_VIEWS", "8"))
WEIGHTS = {"clothing": 6, "nuclei": 1}
"""Models with relative frequencies."""
BUDGETS = {"short": 0.5, "normal": 1.0, "long": 5.0}
"""Multiples of the model's budget in `cases`."""
PRIORITIES = {"interactive": 3, "batch": 1}
"""With relative frequencies."""
REFUSED = "(refused)"
MOST_FAILURES = 0.05
"""Share of the requests that were not refused."""


def read_bodies() -> dict[str, list[bytes]]:
    """Images by model."""
    data, models = Path(os.environ.get("TTA_LOAD_DATA", DATA)), Path(os.environ.get("TTA_LOAD_MODELS", MODELS))
    return {model: [path.read_bytes() for path in find(data, models)] for model, find in IMAGES.items()}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    model: str
    budget: str
    priority: str
    image: bytes

    @property
    def budget_ms(self) -> float:
        return BUDGETS_MS[self.model] * BUDGETS[self.budget]

    @property
    def name(self) -> str:
        """Of its row in locust's table."""
        return f"predict {self.model} ({self.budget})"

    @property
    def refused(self) -> str:
        """Of the row that counts it if it is refused."""
        return f"predict {self.model} {REFUSED}"


def draw(bodies: dict[str, list[bytes]]) -> Ask:
    (model,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
    (priority,) = random.choices(list(PRIORITIES), list(PRIORITIES.values()))
    return Ask(model, random.choice(list(BUDGETS)), priority, random.choice(bodies[model]))


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: an answer with `views` and `elapsed_ms` of its receipt, a refusal, or an error's text."""

    views: int = 0
    elapsed_ms: float = 0.0
    retry_after_ms: float | None = None
    error: str = ""

    def failure(self, ask: Ask) -> str:
        """Why the request failed; empty if it was answered in its budget, or refused."""
        if self.error:
            return self.error
        if self.elapsed_ms > ask.budget_ms:
            return f"the receipt's elapsed_ms exceeds the budget of {ask.budget_ms:g} ms"
        return ""


@dataclass
class Views:
    """Views of the answers, by protocol and row of locust's table."""

    seen: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, protocol: str, ask: Ask, reply: Reply) -> None:
        if reply.views:
            self.seen[protocol, ask.name].append(reply.views)

    def lines(self) -> Iterator[str]:
        """A table: mean K of the answers, and how many had all views."""
        yield f"{'Type':12} {'Name':30} {'answers':>8} {'mean K':>7} {'all views':>10}"
        for (protocol, name), views in sorted(self.seen.items()):
            whole = sum(count == VIEWS for count in views) / len(views)
            yield f"{protocol:12} {name:30} {len(views):8} {sum(views) / len(views):7.2f} {whole:10.0%}"


def exit_status(requests: dict[str, tuple[int, int]]) -> int:
    """From (requests, failures) by name: 1 if more than MOST_FAILURES of those not refused failed, or none was sent."""
    admitted = [counts for name, counts in requests.items() if not name.endswith(REFUSED)]
    sent, failed = (sum(numbers) for numbers in zip(*admitted, strict=True)) if admitted else (0, 0)
    return int(not requests or failed > MOST_FAILURES * sent)
