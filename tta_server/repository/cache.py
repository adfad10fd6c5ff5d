"""A cache bounded by the bytes of what it holds."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

V = TypeVar("V")


class ByteCache:
    """Least recently used entries go first once all together exceed `capacity` bytes. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], nbytes: Callable[[V], int]) -> V:
        """The value of a key, made and kept where it is missing. `nbytes` says what it takes, its key included; one
        that exceeds the capacity is returned and not kept. `make` runs outside of the lock, and what it raises is
        raised; of values made at the same time the first is kept and returned to all."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                found: V = self._entries[key][0]
                return found
        made = make()
        return self._kept(key, made, nbytes(made))

    def _kept(self, key: Hashable, made: V, size: int) -> V:
        with self._lock:
            if size > self._capacity:
                return made
            kept: V = self._entries.setdefault(key, (made, size))[0]
            if kept is made:
                self._nbytes += size
            while self._nbytes > self._capacity:
                _, (_, freed) = self._entries.popitem(last=False)
                self._nbytes -= freed
        return kept

    def close(self) -> None:
        """Lets go of everything, and keeps nothing from now on."""
        with self._lock:
            self._capacity, self._nbytes = -1, 0
            self._entries.clear()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, as they were stated."""
        return self._nbytes
