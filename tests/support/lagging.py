"""A real server process whose event loop is as slow as the test wants it."""

import asyncio
import json
import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.serving import Server, until
from tests.support.toys import metric
from tta_server.api.auth import read_access
from tta_server.application import Application
from tta_server.cli.server import Server as WebServer
from tta_server.settings import Settings
from tta_server.telemetry.tracing import open_tracer

PASS_SECONDS = 0.25
"""Of each pass of the loop while it is slow."""
IDLE_SECONDS = 0.001


class LaggingServer(Server):
    """Serves the models of a folder over HTTP and gRPC. After `slow_down` each pass of its event loop takes long."""

    def __init__(self, models: Path, env: dict[str, str] | None = None, **settings: object) -> None:
        self._slow = models / "slow"
        settings_json = json.dumps({"models": str(models), "port": 0, "grpc_port": 0, **settings})
        super().__init__(settings_json, str(self._slow), env=env, program=("tests.support.lagging",))

    def slow_down(self, **options: Any) -> None:
        """Returns when the server has measured it; the options are those of a client."""
        self._slow.touch()
        with self.client(**options) as client:
            until(lambda: metric(client, "tta_event_loop_lag_seconds") > PASS_SECONDS / 2)

    def speed_up(self) -> None:
        self._slow.unlink()


class SlowLoop(WebServer):
    """While the file `slow` exists, a callback takes PASS_SECONDS in each pass of the event loop."""

    def __init__(self, application: Application, listener: socket.socket, slow: Path) -> None:
        settings = application.settings
        super().__init__(application, listener, read_access(settings.keys, settings.tls_cert, settings.tls_key))
        self._slow = slow

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._pass(asyncio.get_running_loop())

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._slow.exists():
            time.sleep(PASS_SECONDS)
        loop.call_later(IDLE_SECONDS, self._pass, loop)


def main(settings_json: str, slow: str) -> None:
    log = logging.getLogger("tta_server.requests")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    settings = Settings(**json.loads(settings_json))
    application = Application.load(settings, open_tracer(settings.traces))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = SlowLoop(application, listener, Path(slow))
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


if __name__ == "__main__":
    main(*sys.argv[1:])
