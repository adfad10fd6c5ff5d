"""The request log: one line of JSON for each answer and each error that is sent."""

import json
import logging
import time
from typing import Any

from tta_server.telemetry.observer import AnswerSent, ErrorSent, Event

log = logging.getLogger("tta_server.requests")
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
                )
            case ErrorSent():
                _write(
                    event="error",
                    request_id=event.request_id,
                    path=event.path[:MAX_PATH],
                    status=event.status,
                    code=event.code,
                    error=event.error,
                )


def _write(**entry: Any) -> None:
    log.info(json.dumps({"time": round(time.time(), 3), **entry}))
