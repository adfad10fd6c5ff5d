"""A real server process whose models wait at a gate that the test opens."""

import json
import logging
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.serving import PATIENCE, Server
from tta_server.application import Application
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.cli.server import Server as WebServer
from tta_server.repository.loader import find_models, load_model
from tta_server.settings import Settings

STEP = 0.005
"""Seconds between two checks of the gate."""


class GatedServer(Server):
    """Serves the models of a folder over HTTP alone. After `close_gate` batches wait for `open_gate`."""

    def __init__(self, models: Path, **settings: Any) -> None:
        self._gate = models / "closed"
        settings_json = json.dumps({"models": str(models), "grpc": False, **settings})
        super().__init__(settings_json, str(self._gate), program=("tests.support.gated",))

    def close_gate(self) -> None:
        self._gate.touch()

    def open_gate(self) -> None:
        self._gate.unlink()


class GatedBackend:
    """A real backend; each batch waits while the gate's file exists."""

    def __init__(self, real: Backend, gate: Path) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self.permits, self.where = real.permits, real.where
        self._real = real
        self._gate = gate

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        end = time.monotonic() + PATIENCE
        while self._gate.exists() and time.monotonic() < end:
            time.sleep(STEP)
        return self._real.infer(batch)

    def close(self) -> None:
        self._real.close()


def main(settings_json: str, gate: str) -> None:
    log = logging.getLogger("tta_server.requests")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    settings = Settings(**json.loads(settings_json))
    models = [load_model(folder) for folder in find_models(settings.models)]
    gated = [replace(model, backend=GatedBackend(model.backend, Path(gate))) for model in models]
    application = Application(settings, gated)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = WebServer(application, listener)
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


if __name__ == "__main__":
    main(*sys.argv[1:])
