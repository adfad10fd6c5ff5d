"""How many requests are under way at once: threads wait here until the window allows one more."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tta_server.scoring.window import Window


class Gate:
    """Lets as many requests through at once as the window allows; thread-safe."""

    def __init__(self, most: int) -> None:
        self._window = Window(most)
        self._changed = threading.Condition()
        self._under_way = 0

    @property
    def size(self) -> int:
        return self._window.size

    @contextmanager
    def request(self) -> Iterator["Passage"]:
        """Wait until a request may be sent; what the passage says at the end of it counts for the window."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self._window.size)
            self._under_way += 1
            passage = Passage(self._window.round, time.monotonic())
        try:
            yield passage
        finally:
            with self._changed:
                self._under_way -= 1
                if passage.is_refused:
                    self._window.refused(passage.round)
                elif passage.is_answered:
                    self._window.answered(passage.round, time.monotonic() - passage.start)
                self._changed.notify_all()


@dataclass(slots=True)
class Passage:
    """A request under way: the window's round in which it was sent, when, and how it ended.

    What the server says of a broken image comes at once, and says nothing of its load.
    """

    round: int
    start: float
    is_refused: bool = False
    is_answered: bool = False
