"""Closes what is shared between threads once it is retired and its last use has ended."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Lifetime:
    """Counts uses. `close` is called once, outside of the lock, when the last use ends after `retire`."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._uses = 0
        self._retired = False
        self._closed = False

    def begin(self) -> bool:
        """One more use, which `end` ends; False where it is closed already."""
        with self._lock:
            if not self._closed:
                self._uses += 1
            return not self._closed

    def end(self) -> None:
        with self._lock:
            self._uses -= 1
            last = self._is_over()
        if last:
            self._finish()

    def retire(self) -> None:
        """Closes it now, or with its last use; another time it does nothing."""
        with self._lock:
            self._retired = True
            last = self._is_over()
        if last:
            self._finish()

    def _is_over(self) -> bool:
        """Whether it is to be closed by the caller. Under the lock."""
        if not self._retired or self._uses or self._closed:
            return False
        self._closed = True
        return True

    def _finish(self) -> None:
        try:
            self._close()
        except Exception:
            log.exception("a backend could not be closed")
