"""Files that can't be read, for tests."""

import os
from pathlib import Path


def unreadable_files(folder: Path) -> dict[str, str]:
    """Paths that can't be read, and the sentence about each."""
    os.mkfifo(folder / "pipe")
    return {
        str(folder / "pipe"): "the file is a pipe without a writer",
        str(folder): "can't be read: Is a directory",
        str(folder / "none.jpg"): "can't be read: No such file or directory",
        "/dev/zero": "the file has more than 20000000 bytes",
        "/proc/self/mem": "can't be read: Input/output error",
    }
