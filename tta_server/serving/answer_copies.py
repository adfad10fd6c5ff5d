"""Answers that several requests get: which may be shared, what they take in memory, the copy that each request gets."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.deadline import Deadline
from tta_server.tasks.render.rendering import Rendered
from tta_server.telemetry.timings import STAGES

CUT_SHORT = frozenset({StopReason.DEADLINE, StopReason.CAPACITY, StopReason.BACKEND_FAILED})
ENTRY_BYTES = 2000
"""Memory of a stored answer beside views and content: key, objects, the entry of the table; by tracemalloc."""


def is_complete(answer: Answer) -> bool:
    """Whether a longer budget, an idle server or a second attempt would add nothing: no view is missing or dropped."""
    receipt = answer.receipt
    if receipt.stop_reason is None or receipt.stop_reason in CUT_SHORT or receipt.dropped:
        return False
    return receipt.stop_reason != StopReason.ALL_VIEWS or len(receipt.views) == receipt.planned


def is_better(one: Answer, other: Answer) -> bool:
    """Whether one of two answers to equal requests was cut short less: a complete one is, however many views it has."""
    if is_complete(other) or is_complete(one):
        return not is_complete(other)
    return len(one.receipt.views) > len(other.receipt.views)


def size_of(answer: Answer) -> int:
    """Bytes that a stored answer takes, rather too many than too few."""
    arrays = sum(tensor.nbytes + sys.getsizeof(tensor) for tensor in answer.tensors.values())
    picture = len(answer.picture or b"")
    receipt = _deep_size(answer.receipt.views) + _deep_size(answer.receipt.uncertainty)
    return ENTRY_BYTES + arrays + picture + receipt + _deep_size(answer.prediction)


def _deep_size(value: Any) -> int:
    """Bytes of a value and all that it holds, each part but the keys of dicts as if nothing else held it."""
    own = sys.getsizeof(value)
    if isinstance(value, Mapping):
        return own + sum(map(_deep_size, value.values()))
    if isinstance(value, list | tuple):
        return own + sum(map(_deep_size, value))
    return own


def frozen(answer: Answer) -> Answer:
    """A copy whose arrays are its own and can't be written to."""
    tensors = {name: np.array(tensor) for name, tensor in answer.tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return replace(answer, rendering=Rendered(answer.prediction, answer.picture, tensors))


def readdressed(answer: Answer, request_id: str, deadline: Deadline, waited: float = 0.0) -> Answer:
    """The answer for another request, which `waited` seconds for the run that made it: `cached`, in its own times."""
    now = time.monotonic()
    stages = dict.fromkeys(STAGES, 0.0) | {"queue": round(waited * 1e3, 3)}
    receipt = replace(
        answer.receipt,
        request_id=request_id,
        budget_ms=deadline.budget_ms,
        elapsed_ms=round((now - deadline.start) * 1e3, 3),
        stages_ms=stages,
        cached=True,
    )
    return replace(answer, receipt=receipt, made_at=now)
