"""What is stored of an image: the same for every run, so without times."""

from typing import Any

from tta_server.scoring.batches import Scored
from tta_server.serving.answer import Answer

TIMES = ("budget_ms", "elapsed_ms", "stages_ms", "request_id", "cached")
"""Of a receipt: what differs from run to run, or counts for requests only."""


def row_of(scored: Scored) -> dict[str, Any]:
    """`id`, `status` (ok, failed), and prediction and receipt, or `error`."""
    if isinstance(scored.outcome, str):
        return {"id": scored.id, "status": "failed", "error": scored.outcome}
    answer = scored.outcome
    return {"id": scored.id, "status": "ok", "prediction": answer.prediction, "receipt": receipt_of(answer)}


def receipt_of(answer: Answer) -> dict[str, Any]:
    """The receipt without times."""
    return {key: value for key, value in answer.receipt.to_dict().items() if key not in TIMES}
