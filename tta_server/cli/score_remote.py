"""`tta-server score --url`: the connection to the server, by the options of the command."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_server.cli.console import loading, warn
from tta_server.cli.score_options import UNDER_WAY, CacertOption, GiveUpOption, KeyOption, UrlOption
from tta_server.errors import ConfigError
from tta_server.scoring.remote import GIVE_UP_SECONDS, RemotePlan, open_remote
from tta_server.scoring.scorer import read_scoring_options
from tta_server.scoring.server_client import ServerClient
from tta_server.serving.options import as_query

KEY_VARIABLE = "TTA_KEY"


OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "url": (UrlOption, None),
    "key": (KeyOption, None),
    "cacert": (CacertOption, None),
    "give_up_after": (GiveUpOption, GIVE_UP_SECONDS),
}
"""Keyword argument -> the option, and its default."""


def takes_server(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a server; their values are its keyword arguments."""
    own = inspect.signature(command)
    parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, (option, default) in OPTIONS.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=option))
    command.__dict__["__signature__"] = own.replace(parameters=parameters)
    return command


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the options say of the server; `key` is the file that holds it, `most` the requests at once."""

    url: str
    key: Path | None
    cacert: Path | None
    give_up_after: float
    most: int


def read_server(
    given: Mapping[str, Any], most: int | None, models: Path | None, batch: int | None, max_pixels: int | None
) -> ServerOptions | None:
    """None without --url. Raises ConfigError for the last three, which are up to the server."""
    if given["url"] is None:
        if given["key"] or given["cacert"]:
            raise ConfigError("--key-file and --cacert are for a server; give its address by --url")
        return None
    local = {"--models": models, "--batch": batch, "--max-pixels": max_pixels}
    if wrong := next((name for name, value in local.items() if value is not None), None):
        raise ConfigError(f"{wrong} is up to the server; leave it out with --url")
    return ServerOptions(**given, most=most or UNDER_WAY)


@contextmanager
def remote_plan(server: ServerOptions, model: str, options: dict[str, Any]) -> Iterator[RemotePlan]:
    """The server's model with these options of `predict`. Raises ConfigError or InvalidInput."""
    read_scoring_options(options)
    if "/" in model:
        raise ConfigError(f"--model {model}: with --url it is the name of a model of the server, not a folder")
    query = {name: value for name, value in as_query(options).items() if value != ""}
    client = ServerClient(server.url, _key(server.key), str(server.cacert) if server.cacert else None)
    try:
        with loading(f"asking {client.url} ..."):
            plan = open_remote(client, model, query, server.most, server.give_up_after)
        for sentence in plan.about["warnings"]:
            warn(sentence)
        if plan.stop != "all":
            warn(
                "a server with several slots may run a view more than its stop rule needs, so answers of another run "
                "may differ slightly; --stop all gives every view"
            )
        yield plan
    finally:
        client.close()


def _key(file: Path | None) -> str | None:
    """The key in the file, else in the variable. Raises ConfigError, which does not show it."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"--key-file {file}: can't be read: {reason}") from None
    keys = [line for line in lines if line]
    if not keys:
        raise ConfigError(f"--key-file {file}: holds no key; write one in a line")
    return keys[0]
