"""Starts a server to load, in a process of its own."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

DRAIN_SECONDS = 20


class Started(NamedTuple):
    """A server's URL, and the address of its gRPC port."""

    url: str
    grpc: str


@contextmanager
def served(models: Path, slots: int | None = None) -> Iterator[Started]:
    """Start a server on free ports and wait until it is ready; yields its addresses, and interrupts it at the end.

    It has a session of its own, so that Ctrl-C reaches only the load test, which then interrupts the server once.
    """
    command = [sys.executable, "-m", "tta_server", "serve", "--models", str(models), "--port", "0", "--grpc-port", "0"]
    command += [] if slots is None else ["--slots", str(slots)]
    before = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    try:
        started = _ready(process.stderr)
        threading.Thread(target=sys.stderr.writelines, args=(process.stderr,), daemon=True).start()
        yield started
    finally:
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _ready(lines: Iterable[str]) -> Started:
    """The addresses of the message `ready`; earlier messages are shown if the server exits before it."""
    seen = []
    for line in lines:
        if line.startswith("ready: "):
            url, port = re.findall(r"http://\S+|(?<=gRPC on port )\d+", line)
            return Started(url, f"{urlsplit(url).hostname}:{port}")
        seen.append(line)
    raise SystemExit("the server did not start:\n" + "".join(seen))


def _end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
