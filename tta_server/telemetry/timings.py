"""How long one image spends at each stage."""

import threading
import time

from tta_server.telemetry.tracing import RequestTrace

STAGES = ("decode", "prepare", "queue", "infer", "merge")
"""The stages of an answer."""


class StageTimes:
    """Seconds by stage, summed over all threads that work on an image; thread-safe."""

    def __init__(self, queued_since: float, trace: RequestTrace | None = None) -> None:
        """The image of `trace`'s request waits for a slot since `queued_since`, in seconds of the monotonic clock."""
        self.trace = trace
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._queued_since: float | None = queued_since

    def mark_dequeued(self) -> float:
        """Ends the wait for a slot, if the image waits: for its decoding, or for its first view. Returns the time."""
        now = time.monotonic()
        with self._lock:
            since, self._queued_since = self._queued_since, None
            if since is not None:
                self._seconds["queue"] += now - since
        if since is not None:
            self._trace_stage("queue", now - since, now)
        return now

    def mark_decoded(self, start: float) -> None:
        """The image was decoded from `start` until now, and waits for its first view."""
        with self._lock:
            self._queued_since = now = time.monotonic()
            self._seconds["decode"] += now - start
        self._trace_stage("decode", now - start, now)

    def _trace_stage(self, stage: str, seconds: float, end: float) -> None:
        if self.trace is not None and self.trace.is_recorded:
            self.trace.add_event(f"tta.{stage}", {"tta.duration_ms": round(seconds * 1e3, 3)}, end)

    def add(self, **seconds: float) -> None:
        """Adds seconds to stages by name."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] += spent

    def seconds_so_far(self) -> dict[str, float]:
        """Seconds of each stage until now."""
        with self._lock:
            return dict(self._seconds)
