"""What is logged of events: a line of JSON for each answer and error, and a sentence for what tta.yaml gets wrong."""

import json
import logging
import threading
import time
from typing import Any

from tta_server.telemetry.observer import AnswerSent, DeclarationDoubted, ErrorSent, Event
from tta_server.telemetry.tracing import RequestTrace

log = logging.getLogger("tta_server.requests")
warnings = logging.getLogger(__name__)
MAX_PATH = 128
"""Characters of a path that are logged."""


class RequestLog:
    """An observer that logs."""

    def notify(self, event: Event) -> None:
        match event:
            case AnswerSent():
                _write(
                    event="answer",
                    request_id=event.request_id,
                    model=event.model,
                    views=event.views,
                    planned=event.planned,
                    stop_reason=event.stop_reason,
                    budget_ms=event.budget_ms,
                    elapsed_ms=event.elapsed_ms,
                    stages_ms=event.stages_ms,
                    **({"cached": True} if event.cached else {}),
                    **_ids(event.trace),
                )
            case ErrorSent():
                _write(
                    event="error",
                    request_id=event.request_id,
                    path=event.path[:MAX_PATH],
                    status=event.status,
                    code=event.code,
                    error=event.error,
                    **_ids(event.trace),
                )


PAUSE_SECONDS = 60.0
"""Time between two lines about one check of one model."""


class DoubtLog:
    """An observer that logs, at most once a minute, what a model's outputs show to be wrong in its tta.yaml."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, str], float] = {}

    def notify(self, event: Event) -> None:
        if not isinstance(event, DeclarationDoubted):
            return
        key, now = (event.model, event.check), time.monotonic()
        with self._lock:
            if now - self._logged.get(key, -PAUSE_SECONDS) < PAUSE_SECONDS:
                return
            self._logged[key] = now
        warnings.warning("model %s: %s (check %s)", event.model, event.sentence, event.check)


def _ids(trace: RequestTrace | None) -> dict[str, str]:
    """The ids of the request's trace, and of its span if one is recorded."""
    if trace is None:
        return {}
    return {"trace_id": trace.trace_id} | ({"span_id": trace.span_id} if trace.span_id else {})


def _write(**entry: Any) -> None:
    log.info(json.dumps({"time": round(time.time(), 3), **entry}))
