"""How long one image spends at each stage."""

import threading
import time

STAGES = ("decode", "prepare", "queue", "infer", "merge")
"""The stages of an answer."""


class StageTimes:
    """Seconds by stage, summed over all threads that work on an image; thread-safe."""

    def __init__(self, queued_since: float) -> None:
        """The image waits for a slot since `queued_since`, in seconds of the monotonic clock."""
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._queued_since: float | None = queued_since

    def mark_dequeued(self) -> float:
        """Ends the wait for a slot, if the image waits: for its decoding, or for its first view. Returns the time."""
        now = time.monotonic()
        with self._lock:
            if self._queued_since is not None:
                self._seconds["queue"] += now - self._queued_since
                self._queued_since = None
        return now

    def mark_decoded(self, start: float) -> None:
        """The image was decoded from `start` until now, and waits for its first view."""
        with self._lock:
            self._queued_since = time.monotonic()
            self._seconds["decode"] += self._queued_since - start

    def add(self, **seconds: float) -> None:
        """Adds seconds to stages by name."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] += spent

    def seconds_so_far(self) -> dict[str, float]:
        """Seconds of each stage until now."""
        with self._lock:
            return dict(self._seconds)
