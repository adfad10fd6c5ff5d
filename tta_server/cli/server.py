"""The web server of `tta-server serve`: uvicorn with the application's life cycle."""

import asyncio
import contextlib
import gc
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from math import ceil, inf
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tta_server.api.auth import OPEN_ACCESS, Access
from tta_server.api.http.app import create_app
from tta_server.api.http.heads import HeadBound
from tta_server.api.http.limits import LimitedProtocol, limited_protocol
from tta_server.api.oip.grpc_server import BoundServer, create_server
from tta_server.api.requests import RequestHandler
from tta_server.application import Application
from tta_server.cli.console import err
from tta_server.cli.notes import print_failures, print_notes, served
from tta_server.errors import ConfigError, InternalError

CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Listens at once, warms the models in the background and is ready after that.

    The first signal drains, a second one quits. SIGTERM with a delay first makes the server not ready; the next signal
    drains. `failure` is why it stopped, where that was an error.
    """

    def __init__(self, application: Application, listener: socket.socket, access: Access = OPEN_ACCESS) -> None:
        settings = application.settings
        self._application = application
        self._address = listener.getsockname()[:2]
        self.failure: Exception | None = None
        self._warmed = False
        self._drain_at = inf
        application.on_fatal = self._fail
        self._handler = RequestHandler(application)
        self._access = access
        self._grpc: BoundServer | None = None
        app = create_app(application, self._handler, access.keys)
        app.router.lifespan_context = self._lifespan
        heads = HeadBound(application, self._handler, access.keys)
        protocol = limited_protocol(settings.max_connections, settings.receive_seconds, heads.refusal)
        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=ceil(settings.drain_seconds) + 1,
        )
        super().__init__(config)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        try:
            if self._application.settings.grpc:
                self._grpc = create_server(self._application, self._handler, self._access)
                await self._grpc.server.start()
        except ConfigError as error:
            self.failure = error
            self.should_exit = True
            self._application.stop_admitting()
        warming = asyncio.create_task(asyncio.to_thread(self._warm))
        self._handler.bound.start()
        try:
            yield
        finally:
            self._handler.bound.stop()
            self._application.stop_admitting()
            await warming
            await asyncio.to_thread(self._application.close)
            if self._grpc:
                await self._grpc.server.stop(grace=0.5)

    def _warm(self) -> None:
        application = self._application
        before = application.health.load_failures
        try:
            application.warm()
        except Exception as error:  # noqa: BLE001 - raised again by `serve`, on the main thread
            self.failure = error
            self.should_exit = True
            return
        if not application.admitting:
            return
        self._warmed = True
        failures = application.health.load_failures
        if failures:
            gc.collect()  # frees what their errors refer to
        gc.freeze()  # collecting over all that is loaded stopped every thread for 14 to 25 ms
        print_failures({name: failure for name, failure in failures.items() if name not in before})
        print_notes(application.models.values())
        self._print_ready()

    def _print_ready(self) -> None:
        host, port = self._address
        scheme = "https" if self._access.tls else "http"
        grpc = f" and gRPC on port {self._grpc.port}" if self._grpc else ""
        verb = "serve" if self._grpc else "serves"
        names = served(self._application.models, self._application.health.load_failures)
        err.print(
            f"ready: {scheme}://{host}:{port}{grpc} {verb} {names} (docs at /docs; Ctrl-C stops)",
            soft_wrap=True,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        delay = self._application.settings.shutdown_delay_seconds
        if sig == signal.SIGTERM and delay and self._application.ready:
            self._application.leave()
            self._drain_at = time.monotonic() + delay
            return
        self._application.stop_admitting()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's, ten times a second; while the server leaves, each response ends its connection."""
        stops = await super().on_tick(counter)
        if self._application.leaving:
            self._end_keep_alive()
        return stops or time.monotonic() >= self._drain_at

    def _end_keep_alive(self) -> None:
        """Clients open a new connection for their next request, which load balancers lead to another server."""
        state = self.server_state
        if CLOSE not in state.default_headers:
            state.default_headers = [*state.default_headers, CLOSE]
        for connection in list(state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.end_keep_alive()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains while uvicorn waits for the connections.

        So a request not answered when the drain ends gets an error response before uvicorn closes its connection.
        """
        stopping = None
        if self._grpc:
            grace = self._application.settings.drain_seconds + 1
            stopping = asyncio.create_task(self._grpc.server.stop(grace))
            await asyncio.sleep(0)  # refuses new calls, which clients send elsewhere, before they are not admitted
        if self._warmed:
            threading.Thread(target=self._application.close, name="drain", daemon=True).start()
        await super().shutdown(sockets)
        if stopping:
            await stopping

    def _fail(self, reason: str) -> None:
        """Stops the server, which then exits with an error, since only a new process can serve again."""
        self.failure = InternalError(reason)
        self._application.stop_admitting()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but does not raise the signal again at the end, so that a drained server exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
