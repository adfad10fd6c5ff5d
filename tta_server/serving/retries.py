"""Loads models again whose servers were not ready, in the background."""

import logging
import threading
from collections.abc import Callable

from tta_server.errors import BackendUnavailable, Overloaded

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""The pause between two rounds: how soon a model is loaded once its server is there."""


class LoadRetries:
    """A thread that loads each added model until that works, fails for another reason, or is not wanted any more."""

    def __init__(self, load: Callable[[str], object], is_wanted: Callable[[str], bool]) -> None:
        """`load` raises BackendUnavailable while a model's server is not ready, Overloaded while another one loads."""
        self._load = load
        self._is_wanted = is_wanted
        self._changed = threading.Condition()
        self._names: dict[str, None] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retries", daemon=True)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str) -> None:
        """A model's server is not ready."""
        with self._changed:
            self._names[name] = None
            self._changed.notify_all()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, without waiting for a load."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._closed.is_set() or self._names)
                names = list(self._names)
            for name in names:
                if not self._closed.is_set() and self._is_done(name):
                    with self._changed:
                        self._names.pop(name, None)
            self._closed.wait(INTERVAL_SECONDS)

    def _is_done(self, name: str) -> bool:
        if not self._is_wanted(name):
            return True
        try:
            self._load(name)
        except (BackendUnavailable, Overloaded):
            return False
        except Exception:
            log.exception("model %s can't be loaded, though its server is ready", name)
        else:
            log.warning("model %s is loaded: its server is ready", name)
        return True
