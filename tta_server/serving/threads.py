"""The threads of an engine: of slots, workers and the clock."""

import threading
import time
from collections.abc import Callable

from tta_server.scheduling.devices.slots import MOST_IN_FLIGHT
from tta_server.serving.slot_thread import SlotThread


class EngineThreads:
    """Starts and ends them; all are daemons.

    A slot of a device has MOST_IN_FLIGHT threads, of which one prepares a batch or merges predictions while another
    waits for the model, and one more that calls the model.
    """

    def __init__(self, slots: int, workers: int, run: Callable[[str, int], None]) -> None:
        """Each calls `run` with its kind and number: `slot` from 0 on, then `worker`; `clock` has the number -1."""
        self._device = [SlotThread(f"device-{slot}") for slot in range(slots)] if workers else []
        kinds = [("slot", slot) for slot in range(slots) for _ in range(MOST_IN_FLIGHT if workers else 1)]
        kinds += [("worker", slots + worker) for worker in range(workers)]
        names = [f"{kind}-{number}" for kind, number in kinds]
        self._threads = [
            threading.Thread(target=run, args=kind, name=name, daemon=True)
            for kind, name in zip([*kinds, ("clock", -1)], [*names, "clock"], strict=True)
        ]
        self.calls = [thread.call for thread in self._device]
        """For each slot of a device, what calls the model."""

    def start(self) -> None:
        for thread in self._device:
            thread.start()
        for other in self._threads:
            other.start()

    def alive(self) -> list[str]:
        """The names of the threads that run."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def join(self, end: float) -> None:
        """Waits for the threads, but for each at most until `end`, or a second."""
        for thread in self._device:
            thread.stop()
        for other in self._threads:
            if other.is_alive() and other is not threading.current_thread():
                other.join(timeout=max(1.0, end - time.monotonic()))
