"""A server whose device is a clock: a batch takes as long as a curve says, padded to the next size of the ladder.

    python benchmarks/pacing_server.py WORKERS BUDGET CURVE [SETTINGS]

where BUDGET is the default one in milliseconds, CURVE is JSON, batch size -> milliseconds, and SETTINGS is JSON too.
Prints a line of JSON: its port, and what warm-up measured, in milliseconds: `view_ms` by batch size, `decode_ms`,
`finish_ms`.
benchmarks/pacing.py and benchmarks/api_bound.py start it in a process of its own.
"""

import json
import logging
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.server import MODELS
from tta_server.application import Application
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.cli.server import Server
from tta_server.imaging.libraries import configure_libraries
from tta_server.repository.loader import load_model
from tta_server.scheduling.costs import MARGIN, Bucket
from tta_server.settings import Settings
from tta_server.tasks import Outputs as TaskOutputs

MODEL = "cifar10"


class PacingBackend:
    """Runs one batch at a time: sleeps, without holding a core, and gives each row the same scores."""

    def __init__(self, real: Backend, seconds: Mapping[int, float]) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self.permits = real.permits
        self._real = real
        self._sizes = sorted(seconds)
        self._seconds = seconds
        self._device = threading.Lock()
        self._scores: TaskOutputs = real.infer(np.zeros((1, 3, 32, 32), np.float32))

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        size = self._sizes[min(bisect_left(self._sizes, len(batch)), len(self._sizes) - 1)]
        with self._device:
            time.sleep(self._seconds[size])
        return {name: np.repeat(values, len(batch), axis=0) for name, values in self._scores.items()}

    def close(self) -> None:
        self._real.close()


def measured(application: Application) -> dict[str, Any]:
    costs = application.pools.of(application.models[MODEL]).costs
    bucket = Bucket(MODEL, 32, 32)
    pixels = 4 * 32 * 32
    stages = {f"{s}_ms": costs.stage_seconds(s, MODEL, pixels, 0.0) / MARGIN * 1e3 for s in ("decode", "finish")}
    return {"view_ms": {n: costs.seconds(bucket, n, 0.0) / MARGIN * 1e3 for n in costs.rungs(bucket)}, **stages}


def main(workers: str, budget: str, curve: str, more: str = "{}") -> None:
    logging.basicConfig(level=logging.WARNING)
    model = load_model(MODELS / MODEL)
    seconds = {int(n): ms / 1e3 for n, ms in json.loads(curve).items()}
    defaults = model.config.budget.model_copy(update={"default_ms": float(budget)})
    config = model.config.model_copy(update={"budget": defaults})
    configure_libraries()
    settings = Settings(models=MODELS, slots=1, workers=int(workers), max_waiting=4096, **json.loads(more))
    application = Application(settings, [replace(model, config=config, backend=PacingBackend(model.backend, seconds))])
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        server = Server(application, listener)
        threading.Thread(target=_announce, args=(application, listener.getsockname()[1]), daemon=True).start()
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


def _announce(application: Application, port: int) -> None:
    while not application.ready:
        time.sleep(0.05)
    print(json.dumps({"port": port, **measured(application)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
