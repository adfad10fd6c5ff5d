"""Commands in processes of their own, for tests."""

import os
import subprocess
from pathlib import Path

from tests.support.serving import command


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The real command in its own process, on a terminal of 200 columns."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **(env or {})}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, env=environment)


def check_mistake(done: subprocess.CompletedProcess[str]) -> str:
    """Exit status 2 and one sentence."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return sentence


def unreadable_files(folder: Path) -> dict[str, str]:
    """Paths that can't be read, and the sentence about each."""
    os.mkfifo(folder / "pipe")
    return {
        str(folder / "pipe"): "this is a pipe without a writer",
        str(folder): "can't be read: Is a directory",
        str(folder / "none.jpg"): "can't be read: No such file or directory",
        "/dev/zero": "the file has more than the 20000000 bytes",
        "/proc/self/mem": "can't be read: Input/output error",
    }
