"""A least-recently-used cache bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

V = TypeVar("V")


class ByteCache:
    """Evicts the least recently used entries once all exceed `capacity` bytes. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], nbytes: Callable[[V], int]) -> V:
        """Return the value of a key; if it is missing, make and store it.

        `nbytes` returns a value's size with its key; a value over the capacity is returned without being stored.
        `make` runs outside the lock, and its exceptions are raised. Of values made concurrently, the first is stored
        and returned to all.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                found: V = self._entries[key][0]
                return found
        made = make()
        return self._store(key, made, nbytes(made))

    def find(self, key: Hashable) -> Any | None:
        """Return the value of a key, None if it is missing."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> int:
        """Store a value of that size unless the key has one; return how many others were evicted for it."""
        with self._lock:
            return self._insert(key, value, nbytes)

    def discard(self, is_unwanted: Callable[[Any], bool]) -> None:
        """Release the entries whose keys are unwanted."""
        with self._lock:
            for key in [key for key in self._entries if is_unwanted(key)]:
                self._nbytes -= self._entries.pop(key)[1]

    def _store(self, key: Hashable, made: V, size: int) -> V:
        """Store a value unless the key has one, evict others, and return the stored value."""
        with self._lock:
            if size > self._capacity:
                return made
            self._insert(key, made, size)
            stored: V = self._entries[key][0]
            return stored

    def _insert(self, key: Hashable, made: Any, size: int) -> int:
        """Under the lock; nothing happens if the key has a value or the size is over the capacity."""
        if size > self._capacity or key in self._entries:
            return 0
        self._entries[key] = made, size
        self._nbytes += size
        before = len(self._entries)
        while self._nbytes > self._capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self._nbytes -= freed
        return before - len(self._entries)

    def close(self) -> None:
        """Release all entries; nothing is stored from now on."""
        with self._lock:
            self._capacity, self._nbytes = -1, 0
            self._entries.clear()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self._nbytes
