"""Ray, of the extra `ray`, and this process's connection to a cluster."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tta_server.errors import ConfigError, InvalidInput, shown

CLIENT = "ray://"
OF_RAY = ("auto", "local")
"""Addresses by which Ray means the cluster on this machine, and one that it starts."""
CONNECT_SECONDS = 10.0


def import_ray() -> Any:
    """Raises ConfigError with the command that installs it."""
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray: pip install 'tta-server[ray]'")
    return import_module("ray")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`; "" is that of RAY_ADDRESS, else one that runs on this machine.

    Without any, one is started here, and ended after. Raises ConfigError or InvalidInput.
    """
    ray = import_ray()
    _check_address(address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises no narrower one where a node does not start in time
        place = f" at {address}" if address else ""
        raise ConfigError(f"--ray: no cluster can be used{place}: {reason(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raises InvalidInput, or ConfigError if nothing listens there: Ray would wait for minutes."""
    if address in ("", *OF_RAY):
        return
    if address.startswith(CLIENT):
        raise InvalidInput(
            f"--ray: {CLIENT} connects from outside, and results are written where the command runs; run it in the "
            "cluster with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidInput(f"--ray takes an address like head:6379, not {shown(address)}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--ray: nothing answers at {address}: {error}; `ray status` on the head names it") from None


def reason(error: BaseException) -> str:
    """The first line of what an error says; of one that an actor raised, without its traceback."""
    cause = getattr(error, "cause", None)
    found = cause if isinstance(cause, Exception) else error
    return next(iter(str(found).strip().splitlines()), type(found).__name__)
