"""The canvases of one image, made on first use."""

import threading
from collections.abc import Iterable

import numpy as np

from tta_server.imaging.decoding import Pixels, Raster
from tta_server.imaging.preprocessing import Canvas, Preprocessing


class Canvases:
    """One canvas per content size, each resized from the original image.

    Thread-safe. `close` does not wait for a canvas that is being made.
    """

    def __init__(self, preprocessing: Preprocessing, scales: Iterable[float]) -> None:
        """`scales` are the content sizes that `get` may be called with."""
        self._preprocessing = preprocessing
        self._needs_pixels = any(scale != 1 for scale in scales)
        self._making_lock = threading.Lock()
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None
        self._canvases: dict[float, Canvas] = {}
        self._closed = False

    def open(self, image: Raster) -> None:
        """Make the plain view's canvas, and keep the image if other scales may need it."""
        plain = self._preprocessing.canvas(image, 1.0)
        pixels = np.asarray(image) if self._needs_pixels else None
        with self._lock:
            if not self._closed:
                self._canvases[1.0] = plain
                self._pixels = pixels

    def get(self, scale: float) -> Canvas | None:
        """Return the canvas for a scale, made on the first call; None before `open` and after `close`."""
        made, pixels = self._lookup(scale)
        if made is not None or pixels is None:
            return made
        with self._making_lock:
            made, pixels = self._lookup(scale)
            if made is not None or pixels is None:
                return made
            made = self._preprocessing.canvas(pixels, scale)
            with self._lock:
                if self._closed:
                    return None
                self._canvases[scale] = made
            return made

    def _lookup(self, scale: float) -> tuple[Canvas | None, Pixels | None]:
        """Return the canvas if it exists, and the image that it can be made from."""
        with self._lock:
            return self._canvases.get(scale), self._pixels

    def close(self) -> None:
        """Release all pixels."""
        with self._lock:
            self._closed = True
            self._pixels = None
            self._canvases.clear()
