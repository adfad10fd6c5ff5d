"""Which models fail time after time, and whether a slot is stuck."""

import threading

FAILURES = 3
"""So many failed batches in a row make a model ill."""


class Health:
    """Told by the engine's threads, asked by the doors."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failures: dict[str, int] = {}
        self._ill: tuple[str, ...] = ()
        self.stuck_slots: tuple[int, ...] = ()

    @property
    def ill(self) -> tuple[str, ...]:
        return self._ill

    def worked(self, model: str) -> None:
        if model in self._failures:  # without the lock: this is asked after every batch
            with self._changed:
                self._failures.pop(model, None)
                self._note()

    def failed(self, model: str) -> None:
        with self._changed:
            self._failures[model] = self._failures.get(model, 0) + 1
            self._note()

    def stuck(self, slots: list[int]) -> None:
        self.stuck_slots = tuple(slots)

    def wait_for_ill(self, seconds: float) -> tuple[str, ...]:
        """Those that are ill, or none after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ill, seconds)
            return self._ill

    def _note(self) -> None:
        self._ill = tuple(model for model, count in self._failures.items() if count >= FAILURES)
        self._changed.notify_all()
