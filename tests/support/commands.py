"""The command line: each command in this process, or in a process of its own."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tests.support.serving import PATIENCE, command
from tta_server.cli.main import app

Done = subprocess.CompletedProcess[str]
TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1"}


def run(*arguments: object, env: dict[str, str] | None = None) -> Done:
    """Its exit status and what it prints on a terminal of 200 columns; in this process, as an import takes a second."""
    words = ["tta-server", *map(str, arguments)]
    stdout, stderr = _stream(), _stream()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", words)
        for name, value in (TERMINAL | (env or {})).items():
            patch.setenv(name, value)
        status = _exit_status()
    return Done(words, status, _text(stdout), _text(stderr))


def run_process(*arguments: object, env: dict[str, str] | None = None) -> Done:
    """The same in a process of its own."""
    environment = os.environ | TERMINAL | (env or {})
    words = command(*map(str, arguments))
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=environment)


def check_mistake(done: Done) -> str:
    """The one sentence of a command that ended with exit status 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return sentence


def _exit_status() -> int:
    try:
        app()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _stream() -> io.TextIOWrapper:
    """As strict about text as a pipe."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
