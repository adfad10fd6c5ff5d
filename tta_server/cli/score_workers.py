"""What scores on this machine: threads of the command, or processes."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tta_server.backends.base import CPU
from tta_server.cli.console import loading
from tta_server.cli.score_options import LEAST_IMAGES
from tta_server.cli.score_remote import ServerOptions
from tta_server.cli.score_run import How
from tta_server.errors import ConfigError, InvalidInput
from tta_server.scoring.processes import Processes, Setup, started
from tta_server.scoring.remote import RemotePlan
from tta_server.scoring.run import Task
from tta_server.serving.cores import available_cores
from tta_server.serving.memory import available_memory, peak_memory

MEMORY_SHARE = 0.5
"""Of the memory that is free, what processes may take."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many images are scored at once, and by what."""

    count: int
    are_processes: bool = False

    def __str__(self) -> str:
        one, more = ("process", "processes") if self.are_processes else ("thread", "threads")
        return f"{self.count} {one if self.count == 1 else more}"


def check_options(how: How) -> None:
    """Raises InvalidInput for two ways to score at once."""
    is_remote = isinstance(how.where, ServerOptions)
    ways = {"--ray": how.cluster, "--url": is_remote, "--processes": how.processes}
    if how.threads and not is_remote and not how.cluster:
        ways["--threads"] = how.threads
    if len(given := [name for name, value in ways.items() if value]) > 1:
        raise InvalidInput(f"{given[0]} and {given[1]} are two ways to score; leave one of them out")


def choose_workers(task: Task, how: How, images: int) -> Workers:
    """For that many images: as the options say; else one a core, processes for many where they have room.

    Raises ConfigError.
    """
    if isinstance(task.plan, RemotePlan):
        return Workers(task.plan.most)
    device = task.plan.model.backend.device
    if how.processes and device != CPU:
        raise ConfigError(
            f"--processes is for models on the CPU, and {task.plan.model.name} runs on {device}; leave it out"
        )
    if how.threads or how.processes:
        return Workers(how.threads or how.processes or 1, how.processes is not None and images > 0)
    cores = available_cores()
    return Workers(cores, cores > 1 and images >= LEAST_IMAGES and device == CPU and _have_room(cores))


def _have_room(count: int) -> bool:
    """Whether memory has room for as many processes like this one at its peak, in which the model is loaded."""
    free, each = available_memory(), peak_memory()
    return free is not None and each is not None and count * each <= MEMORY_SHARE * free


@contextmanager
def ready(workers: Workers, setup: Setup | None, made_of: Mapping[str, Any]) -> Iterator[int | Processes]:
    """The number of threads, or the processes, started. Raises ConfigError or BackendFailed."""
    if setup is None or not workers.are_processes:
        yield workers.count
        return
    with ExitStack() as stack:
        with loading(f"starting {workers} ..."):
            processes = stack.enter_context(started(setup, workers.count, made_of))
        yield processes
