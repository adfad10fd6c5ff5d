"""A real server process: started on a free port, observed through its output, ended by its pid."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx

from tests.support.references import MODELS

ROOT = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds after which a test fails that waits for an event."""
DEFAULT_MS = 8000
"""Default budget of the bundled models in tests: a busy machine keeps it too."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tta_server", *arguments]


def until(condition: Callable[[], Any]) -> Any:
    """Evaluate a condition that makes a request or the like until it is true; return its value."""
    end = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < end, f"the condition did not hold within {PATIENCE} s"
    return answer


class Server:
    """`python -m tta_server serve` with these arguments; a context manager that ends the process."""

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, program: Sequence[str] = ("tta_server", "serve")
    ) -> None:
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._changed = threading.Condition()
        self._ended = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", *program, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"TTA_GRPC_PORT": "0", **(os.environ if env is None else env)},
        )
        pipes: list[tuple[str, IO[str] | None]] = [("stdout", self.process.stdout), ("stderr", self.process.stderr)]
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: IO[str]) -> None:
        for line in pipe:
            with self._changed:
                self.lines[name].append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def wait_for(self, pattern: str, stream: str = "stderr") -> re.Match[str]:
        """Wait for the first line of its output that matches; return the match."""

        def found() -> re.Match[str] | None:
            return next((m for line in self.lines[stream] if (m := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended == 2, PATIENCE)
            match = found()
        assert match, f"the server did not print {pattern!r}:\n{''.join(self.lines['stderr'])}"
        return match

    @property
    def url(self) -> str:
        return self.wait_for(r"ready: (http://\S+)").group(1)

    @property
    def grpc(self) -> str:
        """Its gRPC address, host:port."""
        return "127.0.0.1:" + self.wait_for(r"gRPC on port (\d+)").group(1)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_status(self) -> int:
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.exit_status()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def models_folder(folder: Path, *names: str) -> Path:
    """Link some of the bundled models into a folder; return it."""
    for name in names:
        (folder / name).symlink_to(MODELS / name)
    return folder
