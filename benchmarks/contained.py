"""Runs a command as a container would, on a root file system that is mounted somewhere: used by image.py, needs root.

The root is read-only, /tmp and /dev/shm are writable; models are mounted read-only; the user is the image's, without
capabilities and without a way to get any; the shells of the image can't be run; the environment is the image's alone.
The network is the host's. The command is process 1 of its own namespace.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, CAPABILITIES = 38, 24, 41
DEVICES = ("null", "zero", "random", "urandom")
SHELLS = ("usr/bin/dash", "usr/bin/bash")


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def mount_all(root: Path, models: str | None) -> None:
    (root / "dev").mkdir(exist_ok=True)
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", root / "tmp")
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", root / "dev")
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", Path("/dev") / name, root / "dev" / name)
    (root / "dev/shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", root / "dev/shm")
    for name in SHELLS:
        if (root / name).exists():
            mount("--bind", "/dev/null", root / name)
    if models:
        mount("--bind", models, root / "models")
        mount("-o", "remount,bind,ro", root / "models")


def lose_rights(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def main() -> None:
    """Takes the root, the folder of models (or an empty word), user and environment as JSON, and the command."""
    root, models, about, *command = sys.argv[1:]
    user, environment = json.loads(about)
    uid, _, gid = user.partition(":")
    mount_all(Path(root), models or None)
    os.chroot(root)
    os.chdir("/")
    lose_rights(int(uid), int(gid or uid))
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
