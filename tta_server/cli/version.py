"""What this code was built from: the commit that a build wrote into the package, or that of a checkout."""

import subprocess
from pathlib import Path

FILE = Path(__file__).parents[1] / "_commit"
"""Written when a wheel, an sdist or an image is built; a checkout has none."""


def read_commit() -> str:
    """The commit, ending in `-dirty` if files were changed; empty if it is not known."""
    if FILE.is_file():
        return FILE.read_text("ascii").strip()
    return describe_checkout(FILE.parents[1])


def describe_checkout(root: Path) -> str:
    """The commit checked out in a folder; empty without git, or if the folder is no checkout of its own."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
