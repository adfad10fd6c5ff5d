"""A server whose model fails in one chosen way; benchmarks/faults.py starts it in a process of its own.

    python benchmarks/faulty_server.py MODEL FAULT

prints its port. The model works until SIGUSR1 arrives, so that the server can warm up; each further one toggles the
fault.
"""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import numpy as np

from benchmarks.server import MODELS
from tta_server.application import Application
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.cli.server import Server
from tta_server.errors import BackendFailed
from tta_server.imaging.libraries import configure_libraries
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

HANGS_EVERY, STUBBORN_EVERY, STUBBORN_SECONDS = 200, 1000, 3.0
SLOWER = 10

Fault = Callable[[Backend, Tensor, Abort | None, int], Outputs]
"""Runs a batch, given the real backend and the batch's number, from 1 on."""


class FaultyBackend:
    """Wraps a real backend; while `on` is set, batches go through the fault."""

    def __init__(self, real: Backend, fault: Fault) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self.permits, self.where = real.permits, real.where
        self.on = False
        self._real = real
        self._fault = fault
        self._lock = threading.Lock()
        self._count = 0

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        if not self.on:
            return self._real.infer(batch, abort)
        with self._lock:
            self._count += 1
            number = self._count
        return self._fault(self._real, batch, abort, number)

    def close(self) -> None:
        self._real.close()


def sound(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    return real.infer(batch, abort)


def hangs(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Some batches hang until they are aborted."""
    if number % HANGS_EVERY:
        return real.infer(batch, abort)
    end = threading.Event()
    assert abort is not None
    abort.on_request(end.set)
    end.wait()
    raise BackendFailed("the model failed on this image") from RuntimeError("ended")


def stubborn(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Some batches hang for a while and ignore that they are aborted."""
    if number % STUBBORN_EVERY == 0:
        time.sleep(STUBBORN_SECONDS)
    return real.infer(batch, abort)


def third(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Every third batch raises."""
    if number % 3 == 0:
        raise BackendFailed("the model failed on this image") from RuntimeError("every third batch")
    return real.infer(batch, abort)


def slow(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Every batch takes SLOWER times as long."""
    start = time.perf_counter()
    outputs = real.infer(batch, abort)
    time.sleep((SLOWER - 1) * (time.perf_counter() - start))
    return outputs


def nan(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Every third batch holds nothing but NaN."""
    outputs = real.infer(batch, abort)
    return outputs if number % 3 else {name: np.full_like(value, np.nan) for name, value in outputs.items()}


FAULTS: dict[str, Fault] = {
    "sound": sound,
    "hangs": hangs,
    "stubborn": stubborn,
    "third": third,
    "slow": slow,
    "nan": nan,
}


def main(name: str, fault: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    model = load_model(MODELS / name)
    backend = FaultyBackend(model.backend, FAULTS[fault])

    def toggle(number: int, frame: FrameType | None) -> None:
        backend.on = not backend.on

    signal.signal(signal.SIGUSR1, toggle)
    configure_libraries()
    application = Application(Settings(models=MODELS), [replace(model, backend=backend)])
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(listener.getsockname()[1], flush=True)
        server = Server(application, listener)
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


if __name__ == "__main__":
    main(*sys.argv[1:])
