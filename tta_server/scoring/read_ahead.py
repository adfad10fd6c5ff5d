"""Files read before they are asked for, a few at a time, so that a slow store does not stop the model."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

READERS = 16
"""Files that are read at once."""
HELD = 2 * READERS
"""Files that are read, or are being read, and were not asked for yet: memory for as many of `max_bytes`."""

Read = Callable[[], bytes]


@dataclass(eq=False, slots=True)
class _File:
    """`future` is None before its turn, and if it was asked for before that."""

    read: Read
    future: Future[bytes] | None = None
    is_taken: bool = False


class ReadAhead:
    """Reads files in the order in which they are added; what is asked for before its turn is read at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(READERS, "read")  # starts no thread before there is a file
        self._lock = threading.Lock()
        self._waiting: deque[_File] = deque()
        self._free = HELD
        self._is_closed = False

    def add(self, read: Read) -> Read:
        """Gives the file's bytes, or raises what `read` does; on any thread."""
        file = _File(read)
        with self._lock:
            self._waiting.append(file)
            self._fill()
        return partial(self._take, file)

    def close(self) -> None:
        """No more are added. Threads end with the last file."""
        with self._lock:
            self._is_closed = True
            self._fill()

    def _take(self, file: _File) -> bytes:
        with self._lock:
            if not file.is_taken:
                file.is_taken = True
                self._free += file.future is not None
                self._fill()
        return file.future.result() if file.future else file.read()

    def _fill(self) -> None:
        """Start reading while there is room."""
        while self._free and self._waiting:
            file = self._waiting.popleft()
            if not file.is_taken:
                file.future = self._pool.submit(file.read)
                self._free -= 1
        if self._is_closed and not self._waiting:
            self._pool.shutdown(wait=False)
