"""Ray, of the extra `ray`, and this process's connection to a cluster."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tta_server.errors import ConfigError, InvalidInput

CLIENT = "ray://"


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
    if address.startswith(CLIENT):
        raise InvalidInput(
            f"--ray {address}: results are written where the command runs, so run it in the cluster: `ray job submit`"
        )
    try:
        ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = f" at {address}" if address else ""
        raise ConfigError(f"--ray: no cluster can be used{place}: {reason(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def reason(error: BaseException) -> str:
    """The first line of what an error says; of one that an actor raised, without its traceback."""
    cause = getattr(error, "cause", None)
    found = cause if isinstance(cause, Exception) else error
    return next(iter(str(found).strip().splitlines()), type(found).__name__)
