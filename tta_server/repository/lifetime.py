"""Reference count of a shared resource, which is closed after its last use."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Lifetime:
    """Counts uses; calls `close` once, outside the lock, when no use is left after `retire`. Thread-safe."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._uses = 0
        self._retired = False
        self._closed = False

    def begin(self) -> bool:
        """Begin a use, which `end` must end; return False if the resource is already closed."""
        with self._lock:
            if not self._closed:
                self._uses += 1
            return not self._closed

    def end(self) -> None:
        """End a use that `begin` allowed."""
        with self._lock:
            self._uses -= 1
            last = self._claim_close()
        if last:
            self._close_logged()

    def retire(self) -> None:
        """Close the resource now or after its last use; repeated calls do nothing."""
        with self._lock:
            self._retired = True
            last = self._claim_close()
        if last:
            self._close_logged()

    def _claim_close(self) -> bool:
        """Return whether the caller must close the resource; at most one caller does. The lock must be held."""
        if not self._retired or self._uses or self._closed:
            return False
        self._closed = True
        return True

    def _close_logged(self) -> None:
        try:
            self._close()
        except Exception:
            log.exception("a backend could not be closed")
