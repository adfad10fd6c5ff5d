"""Processes that score on this machine, each with an interpreter and a copy of the model of its own.

The threads of one interpreter wait for each other while they run Python code.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tta_server.errors import BackendFailed, ConfigError, InvalidInput, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.libraries import configure_libraries
from tta_server.scoring.batches import BatchScorer, InputImage, why_not_open
from tta_server.scoring.formats import choose_format
from tta_server.scoring.manifest import fingerprint
from tta_server.scoring.schema import schema_of
from tta_server.scoring.scorer import open_plan
from tta_server.scoring.shards import Row, RowMaker
from tta_server.serving.image import Image
from tta_server.serving.plan import Options

THREADS = 2
"""Threads of the command for each process: one reads images while another waits for rows."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What each process loads, and how it scores."""

    folder: Path
    options: Options
    limits: Limits
    format: str
    batch: int


class Processes:
    """Scores chunks of images, each on the process that is free first. Thread-safe.

    Images are read here, so whatever they are read from need not be opened twice.
    """

    def __init__(self, workers: "Sequence[_Worker]") -> None:
        self.count = len(workers)
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    def rows(self, images: Sequence[InputImage]) -> Sequence[Row]:
        """Raises BackendFailed if a process ends."""
        contents = [(image.id, _read(image)) for image in images]
        worker = self._free.get()
        try:
            rows: Sequence[Row] = worker.ask(contents)
        finally:
            self._free.put(worker)
        return rows


@contextmanager
def started(setup: Setup, count: int, made_of: Mapping[str, Any]) -> Iterator[Processes]:
    """Processes that have loaded what `made_of` is the fingerprint of. They end with the block, or with this process.

    Raises ConfigError or BackendFailed.
    """
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_Worker())
            workers[-1].send(setup)
        for worker in workers:
            found = worker.receive()
            if isinstance(found, str):
                raise ConfigError(found)
            if found != made_of:
                raise ConfigError(f"{setup.folder}: changed while the run started; start it again")
        yield Processes(workers)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process, in a session of its own: Ctrl-C reaches the command alone."""

    def __init__(self) -> None:
        self._connection, other = Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(other.fileno())],
                pass_fds=[other.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def ask(self, message: Any) -> Any:
        self.send(message)
        return self.receive()

    def send(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # `receive` says why
            self._connection.send(message)

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            status = self._process.wait()
            raise BackendFailed(
                f"a process that scores ended with status {status}; the same command goes on from here"
                + (", with --threads it needs less memory" if status == -signal.SIGKILL else "")
            ) from None

    def end(self) -> None:
        """Close the connection, after which the process ends, and wait for that."""
        self._connection.close()
        self._process.wait()


def _read(image: InputImage) -> Image | str:
    """An image's bytes or pixels, or why there are none."""
    try:
        return image.read()
    except Exception as error:  # noqa: BLE001 - logged where it is not about the image
        return why_not_open(image, error)


# ---- in the process ----


def _work(connection: Connection) -> None:
    """Score what comes until the command closes the connection, or ends."""
    setup = connection.recv()
    try:
        plan = open_plan(setup.folder, setup.options)
        form = choose_format(setup.format)
        made_of = fingerprint(plan, setup.folder, setup.batch, setup.format, setup.limits)
    except TTAError as error:
        connection.send(str(error))
        return
    maker = RowMaker(BatchScorer(plan, setup.batch, setup.limits), form, schema_of(plan))
    connection.send(made_of)
    while True:
        images = [InputImage(name, partial(_given, content)) for name, content in connection.recv()]
        connection.send(list(maker.rows(images)))


def _given(content: Image | str) -> Image:
    if isinstance(content, str):
        raise InvalidInput(content)
    return content


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to a whole container: the command ends after its shard
    configure_libraries()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _work(Connection(int(sys.argv[1])))
