"""How long one image took at each stage."""

import threading
import time

STAGES = ("decode", "prepare", "queue", "infer", "merge")
"""What an answer's time is divided into."""


class StageTimes:
    """Seconds by stage, added up over all threads that work on an image. Methods may run on several threads."""

    def __init__(self, queued_since: float) -> None:
        """It waits for a slot since then, in seconds of the monotonic clock."""
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._queued_since: float | None = queued_since

    def dequeued(self) -> float:
        """Ends a spell of waiting for a slot, of which there are two: for decoding, and for the first view. Returns the
        time."""
        now = time.monotonic()
        with self._lock:
            if self._queued_since is not None:
                self._seconds["queue"] += now - self._queued_since
                self._queued_since = None
        return now

    def decoded(self, start: float) -> None:
        """It was decoded from `start` until now, and waits for its first view."""
        with self._lock:
            self._queued_since = time.monotonic()
            self._seconds["decode"] += self._queued_since - start

    def add(self, **seconds: float) -> None:
        """Time spent on stages by name."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] += spent

    def so_far(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)
