"""One image's canvases, made when a view needs them."""

import threading
from collections.abc import Iterable

from tta_server.imaging.decoding import Pixels
from tta_server.imaging.preprocessing import Canvas, Preprocessing


class Canvases:
    """One canvas for each content size, straight from the image, made once. Methods may run on several threads; `close`
    never waits for a canvas that is being made."""

    def __init__(self, preprocessing: Preprocessing, scales: Iterable[float]) -> None:
        """`scales` are all content sizes that may be asked for."""
        self._preprocessing = preprocessing
        self._needs_pixels = any(scale != 1 for scale in scales)
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None
        self._made: dict[float, Canvas] = {}
        self._closed = False

    def open(self, pixels: Pixels) -> None:
        """Makes the plain view's canvas, and keeps the image where others may be needed."""
        plain = self._preprocessing.canvas(pixels, 1.0)
        with self._lock:
            if not self._closed:
                self._made[1.0] = plain
                self._pixels = pixels if self._needs_pixels else None

    def get(self, scale: float) -> Canvas | None:
        """None before `open` and after `close`."""
        made, pixels = self._look(scale)
        if made is not None or pixels is None:
            return made
        with self._making:
            made, pixels = self._look(scale)
            if made is not None or pixels is None:
                return made
            made = self._preprocessing.canvas(pixels, scale)
            with self._lock:
                if self._closed:
                    return None
                self._made[scale] = made
            return made

    def _look(self, scale: float) -> tuple[Canvas | None, Pixels | None]:
        """The canvas if it is there, and what it could be made from."""
        with self._lock:
            return self._made.get(scale), self._pixels

    def close(self) -> None:
        """Lets go of all pixels."""
        with self._lock:
            self._closed = True
            self._pixels = None
            self._made.clear()
