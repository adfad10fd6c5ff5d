"""The threads of an engine: of slots, workers and the clock."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tta_server.backends.cancel import Abort, call_logged
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.jobs import Batch, Step
from tta_server.serving.slot_thread import Call, SlotThread, Turn, call_here


class Running(NamedTuple):
    """A step that a thread runs, how to abort it and, on a device, its turn."""

    step: Step[Any]
    abort: Abort
    turn: Turn | None

    def abort_if_unwanted(self) -> None:
        """Request the abort of a batch whose jobs are all settled. Not under the engine's lock."""
        if isinstance(self.step, Batch) and all(job.progress.settled for job, _ in self.step.items):
            call_logged(self.abort.request_unwanted)

    @property
    def call(self) -> Call:
        """What calls the model."""
        return call_here if self.turn is None else self.turn.call

    def end(self) -> None:
        if self.turn is not None:
            self.turn.end()


class EngineThreads:
    """Starts and ends them; all are daemons.

    A slot has a thread for each batch that may be in flight. Of a device it has two, of which one prepares a batch or
    merges predictions while the other waits for the model, and one more that calls the model.
    """

    def __init__(self, scheduler: BaseScheduler[Any], run: Callable[[str, int], None]) -> None:
        """Each calls `run` with its kind and number: `slot` from 0 on, then `worker`; `clock` has the number -1."""
        slots, in_flight = range(scheduler.slots), scheduler.batches_in_flight
        self._device = [SlotThread(f"device-{slot}") for slot in slots] if in_flight > 1 else []
        kinds = [("slot", slot) for slot in slots for _ in range(in_flight)]
        kinds += [("worker", len(slots) + worker) for worker in range(scheduler.workers)]
        names = [f"{kind}-{number}" for kind, number in kinds]
        self._threads = [
            threading.Thread(target=run, args=kind, name=name, daemon=True)
            for kind, name in zip([*kinds, ("clock", -1)], [*names, "clock"], strict=True)
        ]

    def start(self) -> None:
        for thread in self._all:
            thread.start()

    @property
    def _all(self) -> list[threading.Thread]:
        return [*self._threads, *(slot.thread for slot in self._device)]

    def running(self, step: Step[Any]) -> Running:
        """A step that starts now. A batch of a device takes its turn to call the model."""
        if not isinstance(step, Batch):
            return Running(step, Abort(), None)
        return Running(step, Abort(step.deadline), self._device[step.slot].turn() if self._device else None)

    def alive(self) -> list[str]:
        """The names of the threads that run."""
        return [thread.name for thread in self._all if thread.is_alive()]

    def join(self, end: float) -> None:
        """Waits for the threads, but for each at most until `end`, or a second."""
        self._join(self._threads, end)
        for slot in self._device:  # once no other thread needs them
            slot.stop()
        self._join([slot.thread for slot in self._device], end)

    def _join(self, threads: Sequence[threading.Thread], end: float) -> None:
        for thread in threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=max(1.0, end - time.monotonic()))
