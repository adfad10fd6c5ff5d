"""`tta-server serve`."""

import contextlib
import logging
import resource
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tta_server.api.auth import Access, read_access
from tta_server.application import Application
from tta_server.cli.console import err, warn
from tta_server.cli.notes import print_failures
from tta_server.cli.options import takes_settings
from tta_server.cli.server import Server
from tta_server.cli.sources import read_settings, unknown_variables
from tta_server.errors import ConfigError
from tta_server.settings import Settings, public_name
from tta_server.telemetry.tracing import Tracer, open_tracer

MOST_FILES = 65_536

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TTA_CONFIG",
        help="TOML file of settings, named as the flags: max_bytes = 5000000. Flags and variables override it.",
    ),
]


@takes_settings
def serve(config: ConfigOption = None, **flags: Any) -> None:
    """Serve the models of a folder, or single ones (--model), over HTTP and gRPC until Ctrl-C.

    Send it an image: curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/models/clothing/predict

    Clients of the Open Inference Protocol (v2, as Triton and KServe speak it) work too.
    """
    for sentence in unknown_variables():
        warn(sentence)
    settings = read_settings(config, **flags)
    access = read_access(settings.keys, settings.tls_cert, settings.tls_key)
    _configure_logging()
    _raise_file_limit()
    _print_settings(settings)
    with contextlib.closing(open_tracer(settings.traces)) as tracer:
        _serve(settings, access, tracer)


def _serve(settings: Settings, access: Access, tracer: Tracer) -> None:
    err.print("loading models ...")
    application = Application.load(settings, tracer)
    print_failures(application.health.load_failures)
    with _listen(settings) as listener:
        server = Server(application, listener, access)
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


def _listen(settings: Settings) -> socket.socket:
    """Raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # what follows is the address again
        raise ConfigError(
            f"can't listen on {settings.host}:{settings.port}: {reason}; choose another with --host and --port"
        ) from error


def _raise_file_limit() -> None:
    """Raises the soft limit of open files, and so of connections, as far as the hard limit allows; it is often 1024."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _configure_logging() -> None:
    """One line of JSON a request on stdout; warnings of all libraries on stderr."""
    requests = logging.getLogger("tta_server.requests")
    requests.setLevel(logging.INFO)
    requests.propagate = False
    requests.addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the request's own line reports a bad form
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _print_settings(settings: Settings) -> None:
    """Those that differ from their defaults, which `serve --help` lists."""
    defaults = Settings()
    changed = {field: value for field, value in settings if value != getattr(defaults, field)}
    if not changed:
        return
    table = Table("changed setting", "value")
    for field, value in changed.items():
        table.add_row(public_name(field).replace("_", "-"), _text(value))
    err.print(table)


def _text(value: Any) -> str:
    """A path relative to the working directory, where it lies in it; a list with commas."""
    if isinstance(value, Path):
        with contextlib.suppress(ValueError):
            return str(value.resolve().relative_to(Path.cwd()))
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)
