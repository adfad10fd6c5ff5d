"""`tta-server serve`."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import uvicorn
from fastapi import FastAPI
from rich.table import Table

from tta_server.api.auth import OPEN_ACCESS, Access, read_access
from tta_server.api.http.app import create_app
from tta_server.api.http.limits import limited_protocol
from tta_server.api.oip.grpc_server import BoundServer, create_server
from tta_server.api.requests import RequestHandler
from tta_server.application import Application
from tta_server.cli.console import (
    DEFAULT_MODELS,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_WAITING_MB,
    MaxBytesOption,
    MaxPixelsOption,
    MaxWaitingMbOption,
    ModelsOption,
    err,
    settings_of,
)
from tta_server.errors import ConfigError, InternalError
from tta_server.serving.cores import available_cores
from tta_server.settings import Settings

FILES = 65_536


def serve(
    models: ModelsOption = DEFAULT_MODELS,
    host: Annotated[str, typer.Option(envvar="TTA_HOST", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="TTA_PORT", help="Port to listen on; 0 picks a free one.")] = 8000,
    slots: Annotated[
        int | None,
        typer.Option(
            envvar="TTA_SLOTS",
            help="Worker threads.",
            show_default="one for each core, of a container's CPU quota where that is less",
        ),
    ] = None,
    max_bytes: MaxBytesOption = MAX_BYTES,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    max_waiting: Annotated[int, typer.Option(envvar="TTA_MAX_WAITING", help="Images that may wait at once.")] = 1024,
    max_waiting_mb: MaxWaitingMbOption = MAX_WAITING_MB,
    grpc: Annotated[bool, typer.Option(envvar="TTA_GRPC", help="Whether to listen for gRPC too.")] = True,
    grpc_port: Annotated[
        int, typer.Option(envvar="TTA_GRPC_PORT", help="Port to listen on for gRPC; 0 picks a free one.")
    ] = 8001,
    max_batch: Annotated[int, typer.Option(envvar="TTA_MAX_BATCH", help="Images that one v2 request may have.")] = 64,
    max_connections: Annotated[
        int, typer.Option(envvar="TTA_MAX_CONNECTIONS", help="HTTP connections, and gRPC calls, open at once.")
    ] = 1024,
    receive_seconds: Annotated[
        float, typer.Option(envvar="TTA_RECEIVE_SECONDS", help="Within this time a request has arrived, or is cut off.")
    ] = 30.0,
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar="TTA_KEYS",
            help="File of bearer keys, one a line; without one everybody may ask.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="TTA_TLS_CERT", help="PEM certificate: both ports then speak TLS.", show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="TTA_TLS_KEY", help="PEM key of that certificate.", show_default=False)
    ] = None,
    model_control: Annotated[
        bool,
        typer.Option(
            "--model-control", envvar="TTA_MODEL_CONTROL", help="Let clients load and unload models (v2/repository)."
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TTA_CORS_ORIGIN",
            help="Origin whose web pages may ask, like https://example.org, or * for all; may be repeated, in the "
            "variable separated by spaces.",
            show_default="none",
        ),
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(envvar="TTA_DRAIN_SECONDS", help="How long Ctrl-C waits for answers that are due.")
    ] = 10.0,
) -> None:
    """Serve the models of a folder over HTTP and gRPC until Ctrl-C.

    Ask it with: curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/models/clothing/predict
    Or with any client of the Open Inference Protocol (v2), as Triton and KServe speak it.
    """
    settings = settings_of(
        models=models,
        host=host,
        port=port,
        slots=available_cores() if slots is None else slots,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_waiting=max_waiting,
        max_waiting_mb=max_waiting_mb,
        grpc=grpc,
        grpc_port=grpc_port,
        max_batch=max_batch,
        max_connections=max_connections,
        receive_seconds=receive_seconds,
        keys=keys,
        tls_cert=tls_cert,
        tls_key=tls_key,
        model_control=model_control,
        cors_origin=cors_origin or (),
        drain_seconds=drain_seconds,
    )
    access = read_access(settings.keys, settings.tls_cert, settings.tls_key)
    _log_to_stdout()
    _allow_files()
    _show(settings)
    application = Application.load(settings)
    with _listening(settings) as listener:
        server = Server(application, listener, access)
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


class Server(uvicorn.Server):
    """Listens at once, warms in the background, is ready after that; the first signal drains, the second quits."""

    def __init__(self, application: Application, listener: socket.socket, access: Access = OPEN_ACCESS) -> None:
        settings = application.settings
        self._application = application
        self._address = listener.getsockname()[:2]
        self.failure: Exception | None = None
        self._warmed = False
        application.on_fatal = self._give_up
        self._reception = RequestHandler(application)
        self._access = access
        self._grpc: BoundServer | None = None
        app = create_app(application, self._reception, access.keys)
        app.router.lifespan_context = self._lifespan
        config = uvicorn.Config(
            app,
            http=limited_protocol(settings.max_connections, settings.receive_seconds),  # type: ignore[arg-type]
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
                self._grpc = create_server(self._application, self._reception, self._access)
                await self._grpc.server.start()
        except ConfigError as error:
            self.failure = error
            self.should_exit = self._application.closing = True
        warming = asyncio.create_task(asyncio.to_thread(self._warm))
        try:
            yield
        finally:
            self._application.closing = True
            await warming
            await asyncio.to_thread(self._application.close)
            if self._grpc:
                await self._grpc.server.stop(grace=0.5)

    def _warm(self) -> None:
        try:
            self._application.warm()
        except Exception as error:  # noqa: BLE001 - raised again by `serve`, on the main thread
            self.failure = error
            self.should_exit = True
            return
        if not self._application.ready:
            return
        self._warmed = True
        gc.freeze()  # what is loaded stays: looking through it for garbage stopped all threads for 14 to 25 ms
        host, port = self._address
        scheme = "https" if self._access.tls else "http"
        grpc = f" and gRPC on port {self._grpc.port}" if self._grpc else ""
        names = ", ".join(self._application.models)
        err.print(
            f"ready: {scheme}://{host}:{port}{grpc} serves {names} (docs at /docs; Ctrl-C stops)",
            highlight=False,
            soft_wrap=True,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.retire()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains while uvicorn waits for the connections: who is not answered when the drain ends is told so, before
        uvicorn would cut him off."""
        if self._warmed:
            threading.Thread(target=self._application.close, name="drain", daemon=True).start()
        stopping = None
        if self._grpc:
            grace = self._application.settings.drain_seconds + 1
            stopping = asyncio.create_task(self._grpc.server.stop(grace))
        await super().shutdown(sockets)
        if stopping:
            await stopping

    def _give_up(self, reason: str) -> None:
        """Only a new process helps: end this one, and exit with an error."""
        self.failure = InternalError(reason)
        self._application.retire()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again at the end: a drained server exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror}; choose another with --host and --port"
        ) from error


def _allow_files() -> None:
    """As many open files, and so connections, as the system lets this process have: often 1024 where it need not be."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_to_stdout() -> None:
    """One line of JSON a request on stdout; warnings of every part on stderr."""
    requests = logging.getLogger("tta_server.requests")
    requests.setLevel(logging.INFO)
    requests.propagate = False
    requests.addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # of bad forms our own line tells
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _show(settings: Settings) -> None:
    table = Table("setting", "value", title="tta-server", title_justify="left")
    for name, value in settings:
        shown = _short(value) if isinstance(value, Path) else _listed(value)
        table.add_row(name.replace("_", "-"), shown)
    err.print(table)


def _listed(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _short(path: Path) -> str:
    """Relative to where the user is, if that is shorter."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
