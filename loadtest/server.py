"""Starts a server to load, in a process of its own, and reads what a load test needs to know of it."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

DRAIN_SECONDS = 20


@contextmanager
def served(models: Path, slots: int | None = None) -> Iterator[str]:
    """Start a server on a free port and wait until it is ready; yields its URL, and interrupts it at the end.

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
        url = _ready(process.stderr)
        threading.Thread(target=sys.stderr.writelines, args=(process.stderr,), daemon=True).start()
        yield url
    finally:
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _ready(lines: Iterable[str]) -> str:
    """The URL from the message `ready`; earlier messages are shown if the server exits before it."""
    seen = []
    for line in lines:
        if line.startswith("ready: "):
            return line.split()[1]
        seen.append(line)
    raise SystemExit("the server did not start:\n" + "".join(seen))


def _end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def address(url: str) -> tuple[str, int]:
    """Host and port of `http://host:port`."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise SystemExit(f"--url is {url!r}; it must be like http://127.0.0.1:8000")
    return parts.hostname, parts.port or 80


def max_budget_ms(url: str, model: str) -> float:
    """The model's maximum budget on that server."""
    link = http.client.HTTPConnection(*address(url), timeout=10)
    try:
        link.request("GET", f"/v1/models/{model}")
        found: dict[str, Any] = json.loads(link.getresponse().read())
    except OSError as error:
        raise SystemExit(f"no server answers at {url}: {error}") from None
    finally:
        link.close()
    if "budget" not in found:
        raise SystemExit(f"the server at {url} does not serve {model}: {found.get('error')}")
    return float(found["budget"]["max_ms"])
