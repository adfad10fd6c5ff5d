"""Processes that score on this machine, each with an interpreter and a copy of the model of its own.

The threads of one interpreter wait for each other while they run Python code.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

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

T = TypeVar("T")
THREADS = 2
"""Threads of the command for each process: one reads images while another waits for rows."""
MESSAGE_BYTES = 4_000_000
"""Images are sent together up to this size, so that neither side holds all that it was given."""
TRIP_SECONDS = 0.05
"""A process is given as many images at a time as take this long: then its waits for the next ones count for little."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What each process loads, and how it scores."""

    folder: Path
    options: Options
    limits: Limits
    format: str
    batch: int


class Processes:
    """Scores chunks of `batch` images, some at a time, on the process that is free first. Thread-safe.

    Images are read here, so whatever they are read from need not be opened twice.
    """

    def __init__(self, workers: "Sequence[_Worker]", batch: int) -> None:
        self.count = len(workers)
        self._batch = batch
        self._seconds = TRIP_SECONDS
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    def rows(self, images: Sequence[InputImage]) -> Sequence[Row]:
        """Raises BackendFailed if a process ends."""
        messages = _messages(images)
        first = next(messages)
        worker = self._free.get()
        start = time.monotonic()
        try:
            for message in chain([first], messages, [None]):
                worker.send(message)
            rows: Sequence[Row] = worker.receive()
        finally:
            self._free.put(worker)
        self._seconds = (time.monotonic() - start) / -(-len(images) // self._batch)
        return rows

    def together(self) -> int:
        """How many chunks to give at once, by the time that the last ones took."""
        return max(1, int(TRIP_SECONDS / self._seconds))


@contextmanager
def started(setup: Setup, count: int, made_of: Mapping[str, Any]) -> Iterator[Processes]:
    """Processes that have loaded what `made_of` is the fingerprint of. They end with the block, or with this process.

    Raises ConfigError or BackendFailed.
    """
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_start(count))
            workers[-1].send(setup)
        for worker in workers:
            found = worker.receive()
            if isinstance(found, str):
                raise ConfigError(found)
            if found != made_of:
                raise ConfigError(f"{setup.folder}: changed while the run started; start it again")
        yield Processes(workers, setup.batch)
    finally:
        for worker in workers:
            worker.end()


def _start(count: int) -> "_Worker":
    try:
        return _Worker()
    except OSError as error:
        raise ConfigError(
            f"{count} processes can't be started: {error.strerror}; take fewer with --processes, or --threads"
        ) from None


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

    def send(self, message: Any) -> None:
        with suppress(OSError):  # the process has ended, and `receive` says so
            self._connection.send(message)

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            status = self._process.wait()
            raise BackendFailed(
                f"a process that scores ended with status {status}; the same command goes on from here"
                + (", with --threads it needs less memory" if status == -signal.SIGKILL else "")
            ) from None

    def end(self) -> None:
        """Close the connection, which ends the process, and wait for that."""
        self._connection.close()
        self._process.wait()


def _messages(images: Iterable[InputImage]) -> Iterator[Sequence[tuple[str, Image | str]]]:
    """The ids and contents of images, as many together as fit; they are read as they are asked for."""
    message, nbytes = list[tuple[str, Image | str]](), 0
    for image in images:
        content = _read(image)
        message.append((image.id, content))
        nbytes += content.nbytes if isinstance(content, np.ndarray) else len(content)
        if nbytes >= MESSAGE_BYTES:
            yield message
            message, nbytes = [], 0
    yield message


def _read(image: InputImage) -> Image | str:
    """An image's bytes or pixels, or why there are none."""
    try:
        return image.read()
    except Exception as error:  # noqa: BLE001 - logged where it is not about the image
        return why_not_open(image, error)


# ---- in the process ----


def _end_with(connection: Connection) -> None:
    """End this process once the command has closed the connection or ended, also in the middle of a run."""
    other_end = select.poll()
    other_end.register(connection, 0)  # of no event but its close
    other_end.poll()
    os._exit(0)


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
        chunks = chunks_of(_received(connection), setup.batch)
        connection.send([row for chunk in chunks for row in maker.rows(chunk)])


def chunks_of(images: Iterator[T], length: int) -> Iterator[Iterator[T]]:
    """Each `length` images, the last may be fewer; none is taken before its chunk asks for it but the first."""
    for first in images:
        yield chain([first], islice(images, length - 1))


def _received(connection: Connection) -> Iterator[InputImage]:
    """The images of some chunks, as the scorer asks for them."""
    while (message := connection.recv()) is not None:
        for name, content in message:
            yield InputImage(name, partial(_given, content))


def _given(content: Image | str) -> Image:
    if isinstance(content, str):
        raise InvalidInput(content)
    return content


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # to a whole container: the command ends after its shard
        signal.signal(number, signal.SIG_IGN)
    configure_libraries()
    command = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()
    with suppress(EOFError, OSError):  # the command has ended
        _work(command)
