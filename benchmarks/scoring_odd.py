"""What scoring says, and what is left, where disks, inputs and names are odd; see `scoring.py odd`."""

import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.scoring import command, content_of, tiny_images
from benchmarks.server import MODELS

FILE_BYTES = 100_000
"""Of the largest file that may be written in `no_room`."""
DISK_KB = 400
"""Of the tmpfs."""


class Odd:
    """Runs the command as a user does, prints what it says, and counts what is not as stated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.misses: list[str] = []

    def words(self, source: Path, out: Path, *more: object) -> list[str]:
        options = ("--model", "cifar10", "--models", MODELS, "--format", "jsonl", "--batch", 8, "--max-views", 2)
        return command(source, "--out", out, *options, *more)

    def run(self, source: Path, out: Path, *more: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(source, out, *more), capture_output=True, text=True, **options)

    def report(self, name: str, done: subprocess.CompletedProcess[str], expected: Sequence[str], left: str) -> None:
        """Print the sentences that matter; a miss is an expected one that is not there, or a traceback."""
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        for sentence in expected:
            said = next((line for line in lines if sentence in line), None)
            self.check(name, said is not None, said or f"{sentence!r} is not said: {' / '.join(lines)[-300:]}")
        self.check(name, "Traceback" not in done.stderr, f"exit status {done.returncode}; {left}")

    def check(self, name: str, is_met: bool, text: str) -> None:
        print(f"{name}: {'' if is_met else 'NOT AS STATED: '}{text}")
        if not is_met:
            self.misses.append(name)


def rows_of(out: Path) -> list[dict[str, Any]]:
    paths = sorted((out / "results").glob("part-*")) if out.exists() else []
    return [json.loads(line) for path in paths for line in path.open(encoding="utf-8")]


def full_disk(odd: Odd) -> None:
    """A shard does not fit; with room again, the same command goes on."""
    photos, out = tiny_images(odd.folder / "photos", 300), odd.folder / "no-room"
    done = odd.run(photos, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES)))
    unfinished = [*out.rglob("*.tmp")]
    odd.report("disk full (RLIMIT_FSIZE)", done, ["can't be written: File too large"], f"{len(rows_of(out))} rows")
    odd.check(
        "disk full (RLIMIT_FSIZE)", done.returncode == 2 and not unfinished, f"{len(unfinished)} unfinished files"
    )
    again = odd.run(photos, out)
    odd.check("disk full (RLIMIT_FSIZE)", len(rows_of(out)) == 300, f"again, with room: {again.returncode}, 300 rows")


@contextmanager
def tmpfs(folder: Path) -> Iterator[bool]:
    """A disk of DISK_KB at a folder, where this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(folder)]
    is_there = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_there
    finally:
        if is_there:
            subprocess.run(["umount", str(folder)], check=True)


def small_disk(odd: Odd) -> None:
    """The first shards fit on the disk; what they hold is that of a run with room."""
    photos, whole = tiny_images(odd.folder / "many", 1000), odd.folder / "whole"
    with tmpfs(odd.folder / "disk") as is_there:
        if not is_there:
            print("disk full (tmpfs): not tried, since this user may not mount one")
            return
        done = odd.run(photos, odd.folder / "disk" / "out")
        kept = rows_of(odd.folder / "disk" / "out")
        verified = odd.run(photos, odd.folder / "disk" / "out", "--verify")
    odd.report("disk full (tmpfs)", done, ["can't be written: No space left on device"], f"{len(kept)} rows")
    odd.check("disk full (tmpfs)", verified.returncode == 0, verified.stdout.strip() or verified.stderr.strip())
    odd.run(photos, whole)
    same = bool(kept) and kept == rows_of(whole)[: len(kept)]
    odd.check("disk full (tmpfs)", same and done.returncode == 2, f"rows equal those of a run with room: {same}")


def no_folder(odd: Odd) -> None:
    """The output is below a file."""
    (odd.folder / "file").write_text("")
    done = odd.run(odd.folder / "photos", odd.folder / "file" / "out")
    odd.report("output that can't be made", done, ["can't be written: Not a directory"], "nothing")


def vanishing(odd: Odd) -> None:
    """An image is removed after the run has listed it."""
    photos, out = tiny_images(odd.folder / "vanishing", 1000), odd.folder / "out-vanishing"
    process = subprocess.Popen(odd.words(photos, out), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / "manifest.json").exists():
        pass
    (photos / "0000999.jpg").unlink()
    _, stderr = process.communicate()
    done = subprocess.CompletedProcess(process.args, process.returncode, "", stderr)
    rows = rows_of(out)
    odd.report("vanishing input", done, ["0000999.jpg: can't be read: No such file or directory"], f"{len(rows)} rows")
    failed = [row["id"] for row in rows if row["status"] == "failed"]
    odd.check("vanishing input", (len(rows), failed) == (1000, ["0000999.jpg"]), f"failed: {failed}")


def broken(odd: Odd) -> None:
    """30 % of a folder are no images."""
    photos, out = tiny_images(odd.folder / "broken", 100, 30), odd.folder / "out-broken"
    done = odd.run(photos, out)
    failed = sum(row["status"] == "failed" for row in rows_of(out))
    odd.report("30 % broken", done, ["100 of 100, 30 failed", "this is not an image"], f"{failed} failed rows")
    odd.check("30 % broken", (done.returncode, failed) == (0, 30), "all 100 images have a row")
    limited = odd.run(photos, odd.folder / "out-limited", "--max-failures", "10%")
    odd.report("30 % broken, --max-failures 10%", limited, ["more images failed than --max-failures 10% allows"], "")
    odd.check("30 % broken, --max-failures 10%", limited.returncode == 3, "exit status 3")
    verified = odd.run(photos, odd.folder / "out-limited", "--verify")
    odd.check("30 % broken, --max-failures 10%", verified.returncode == 0, verified.stdout.strip())


def twice(odd: Odd) -> None:
    """A list names an image twice."""
    (odd.folder / "list.txt").write_text("photos/0000001.jpg\nphotos/0000002.jpg\nphotos/0000001.jpg\n")
    done = odd.run(odd.folder / "list.txt", odd.folder / "out-twice")
    odd.report("duplicate ids", done, ["names 'photos/0000001.jpg' twice, and each image is scored once"], "nothing")
    odd.check("duplicate ids", done.returncode == 2 and not (odd.folder / "out-twice").exists(), "no output folder")


def names(odd: Odd) -> None:
    """A name is not UTF-8; a folder links to itself and to one around it."""
    photos, out = tiny_images(odd.folder / "names", 2), odd.folder / "out-names"
    os.rename(photos / "0000001.jpg", os.fsencode(photos) + b"/caf\xe9.jpg")
    (photos / "loop").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    done = odd.run(photos, out)
    odd.report("symlink loops", done, ["is a link to a folder around it, and is left out"], f"{len(rows_of(out))} rows")
    found = [(row["id"], row["status"]) for row in rows_of(out)]
    odd.check("non-UTF-8 names", found == [("0000000.jpg", "ok"), ("caf\\xe9.jpg", "ok")], f"rows: {found}")
    again = content_of(out)
    odd.run(photos, out)
    odd.check("non-UTF-8 names", content_of(out) == again, "the same command finds nothing left to do")


CASES: Sequence[Callable[[Odd], None]] = (full_disk, small_disk, no_folder, vanishing, broken, twice, names)


def check_odd() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        odd = Odd(Path(folder))
        for case in CASES:
            case(odd)
    print(f"{len(odd.misses)} not as stated")
    return not odd.misses
