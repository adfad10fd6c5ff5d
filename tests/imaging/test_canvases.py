"""Canvases are made once for all threads, and released by `close`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.support.serving import PATIENCE
from tta_server.imaging.canvases import Canvases
from tta_server.imaging.decoding import Raster
from tta_server.imaging.preprocessing import Canvas, Preprocessing, Resize
from tta_server.views.geometry import Size

PIXELS = np.full((20, 30, 3), 7, np.uint8)
LARGER = 1.5


@dataclass(frozen=True, eq=False)
class Slow(Preprocessing):
    """Waits for `release` before it makes a scaled canvas."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    made: list[float] = field(default_factory=list)

    def canvas(self, raster: Raster, scale: float) -> Canvas:
        self.made.append(scale)
        if scale != 1:
            self.entered.set()
            assert self.release.wait(PATIENCE)
        return super().canvas(raster, scale)


@pytest.fixture
def slow() -> Slow:
    return Slow(size=Size(8, 8), resize=Resize.EXACT)


def test_concurrent_calls_make_each_canvas_once(slow: Slow) -> None:
    canvases = Canvases(slow, [1.0, LARGER])
    canvases.open(PIXELS)
    with ThreadPoolExecutor(4) as slots:
        asked = [slots.submit(canvases.get, LARGER) for _ in range(4)]
        assert slow.entered.wait(PATIENCE)
        assert canvases.get(1.0) is not None  # an existing canvas is returned without waiting
        slow.release.set()
        found = {id(one.result(PATIENCE)) for one in asked}
    assert len(found) == 1
    assert slow.made == [1.0, LARGER]


def test_close_does_not_wait_for_a_canvas_being_made(slow: Slow) -> None:
    canvases = Canvases(slow, [1.0, LARGER])
    canvases.open(PIXELS)
    with ThreadPoolExecutor(1) as slots:
        asked = slots.submit(canvases.get, LARGER)
        assert slow.entered.wait(PATIENCE)
        canvases.close()
        assert canvases.get(1.0) is None
        slow.release.set()
        assert asked.result(PATIENCE) is None
    assert canvases.get(LARGER) is None


def test_open_after_close_keeps_nothing(slow: Slow) -> None:
    """As when the client disconnects during decoding."""
    canvases = Canvases(slow, [1.0])
    assert canvases.get(1.0) is None
    canvases.close()
    canvases.open(PIXELS)
    assert canvases.get(1.0) is None


def test_the_image_is_kept_only_if_a_scale_needs_it(slow: Slow) -> None:
    slow.release.set()
    plain, scaled = Canvases(slow, [1.0, 1.0]), Canvases(slow, [1.0, LARGER])
    for canvases in (plain, scaled):
        canvases.open(PIXELS)
    assert plain.get(LARGER) is None
    larger = scaled.get(LARGER)
    assert larger is not None
    assert larger.planes.shape == (3, 12, 12)
