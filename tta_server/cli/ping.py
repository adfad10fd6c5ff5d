"""`tta-server ping`. Its imports are few and light: the image's health check runs it every 10 seconds."""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from tta_server.errors import ConfigError, InvalidInput, TTAError, shown

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on, and the one where this host then answers."""
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="Address of the server, like https://tta.example.org. Default: this host, with port and TLS as "
        "`serve` takes them from TTA_PORT, TTA_TLS_CERT and the file of TTA_CONFIG."
    ),
]
PortOption = Annotated[
    int | None, typer.Option(min=1, max=65_535, help="HTTP port of a server on this host, instead of its settings'.")
]
ReadyOption = Annotated[bool, typer.Option("--ready", help="Ask whether it takes requests, not just whether it lives.")]
CacertOption = Annotated[
    Path | None,
    typer.Option(help="PEM file of the authority that signed the certificate of --url, if not the system's."),
]
TimeoutOption = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the server.")]


def ping(
    url: UrlOption = None,
    port: PortOption = None,
    ready: ReadyOption = False,
    cacert: CacertOption = None,
    timeout: TimeoutOption = 3.0,
) -> None:
    """Ask a server whether it is alive, or with --ready whether it takes requests.

    Exit status: 0 if so; 1 if not, or if no server answers; 2 for a mistake in an option. It needs no key.

    Without --url the certificate is not verified: it names the service, not this host.
    """
    try:
        base = url or local_url(port, os.environ)
        connection = _connection(base, cacert, url is not None, timeout)
        status, text = _get(connection, urlsplit(base).path.rstrip("/") + ("/readyz" if ready else "/livez"))
    except TTAError as mistake:
        _end(str(mistake), 2)
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: a host that is no name
        _end(f"no server answers at {base}: {_reason(error)}", 1)
    wanted = "ready" if ready else "alive"
    if status != 200:
        _end(f"{base} is not {wanted}: {status}, {text}", 1)
    typer.echo(f"{base} is {wanted}")


def local_url(port: int | None, environment: Mapping[str, str]) -> str:
    """The URL of this host's server by its settings: variable, key of the TOML file, default. Raises ConfigError."""
    keys = _read_toml(environment["TTA_CONFIG"]) if environment.get("TTA_CONFIG") else {}

    def setting(name: str, default: str) -> str:
        return environment.get(f"TTA_{name.upper()}") or str(keys.get(name, default))

    host = setting("host", "127.0.0.1")
    host = WILDCARDS.get(host, host)
    found = str(port or setting("port", "8000"))
    if not found.isascii() or not found.isdecimal() or not 0 < int(found) < 65_536:
        raise ConfigError(f"the port of the settings is {shown(found)}, which can't be asked; give --port or --url")
    scheme = "https" if setting("tls_cert", "") else "http"
    return f"{scheme}://[{host}]:{found}" if ":" in host else f"{scheme}://{host}:{found}"


def _read_toml(name: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"TTA_CONFIG={name} can't be read: {_reason(error)}") from error


def _connection(base: str, cacert: Path | None, is_verified: bool, timeout: float) -> http.client.HTTPConnection:
    """Not open yet. Raises InvalidInput."""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        raise InvalidInput(f"--url takes http://host:port or https://host:port, not {shown(base)}")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:
        raise InvalidInput(f"--cacert {cacert} can't be read: {_reason(error)}") from error
    if not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Status and the start of the answer, on one line. Raises OSError, HTTPException."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, " ".join(answer.read(500).decode("utf-8", "replace").split())
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _end(sentence: str, status: int) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(status)


def app() -> None:
    """The console script, where its first argument is `ping`."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    alone.command("ping")(ping)
    alone(args=sys.argv[2:], prog_name="tta-server ping")
