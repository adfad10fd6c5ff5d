"""The folder of a run: manifest, ledger and shards. Each file is whole or not there, whenever the run is killed."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tta_server.errors import ConfigError, shown

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

MANIFEST, LEDGER, RESULTS, TIMES = "manifest.json", "ledger.jsonl", "results", "timings"
UNFINISHED = ".tmp"
"""Suffix of a file that is being written."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A line of the ledger: a shard that is written. `views` were run for the images that did not fail."""

    shard: int
    file: str
    images: int
    failed: int
    views: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard:
    """What is written of a shard. `counts` are those of its line of the ledger."""

    number: int
    suffix: str
    content: bytes
    times: bytes
    counts: Mapping[str, int]

    @property
    def entry(self) -> ShardEntry:
        digest = hashlib.sha256(self.content).hexdigest()
        file = f"part-{self.number:05d}{self.suffix}"
        return ShardEntry(self.number, file, bytes=len(self.content), sha256=digest, **self.counts)


class OutputFolder:
    """What a run writes. One run at a time has the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other runs out. Raises ConfigError."""
        with self._explained():
            for part in (RESULTS, TIMES):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        with lock:
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"{self.folder}: another run writes here; wait for its end, or give another --out"
                ) from None
            self._remove_unfinished()
            yield

    def path(self, entry: ShardEntry) -> Path:
        return self.folder / RESULTS / entry.file

    def write(self, shard: Shard) -> ShardEntry:
        """Write a shard and its line of the ledger. Raises ConfigError if the disk does not take it."""
        entry = shard.entry
        with self._explained():
            write_whole(self.folder / TIMES / f"part-{shard.number:05d}.jsonl", shard.times)
            write_whole(self.path(entry), shard.content)
            with (self.folder / LEDGER).open("ab") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        return entry

    def write_file(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file beside the ledger. Raises ConfigError if the disk does not take it."""
        with self._explained():
            write_chunks(self.folder / name, chunks)

    def entries(self) -> dict[int, ShardEntry]:
        """The shards that are written, by number: lines of the ledger whose files are there. Raises ConfigError."""
        return {shard: entry for shard, entry in self.ledger().items() if self._is_there(entry)}

    def ledger(self) -> dict[int, ShardEntry]:
        """The last line of the ledger for each shard; one at the end that is cut short is removed from it.

        Raises ConfigError for any other line that is none of ours.
        """
        with self._explained():
            content = self._ledger()
            lines = content.split(b"\n")
            if lines.pop():
                with (self.folder / LEDGER).open("r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)
        entries = [self._entry(number, line) for number, line in enumerate(lines, 1)]
        return {entry.shard: entry for entry in entries}

    def sort_ledger(self, entries: Mapping[int, ShardEntry]) -> None:
        """Write the ledger in the order of shards, whatever order they ended in."""
        content = b"".join(_line(entries[shard]) for shard in sorted(entries))
        if content != self._ledger():
            with self._explained():
                write_whole(self.folder / LEDGER, content)

    def read_manifest(self) -> Mapping[str, Any] | None:
        """None if there is none yet. Raises ConfigError."""
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        with self._explained():
            content = path.read_bytes()
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: is no manifest of a run; give another --out")
        return found

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, or compare it with that of the run before. Raises ConfigError that says what differs."""
        before = self.read_manifest()
        if before is None:
            with self._explained():
                if any((self.folder / RESULTS).iterdir()):
                    raise ConfigError(f"{self.folder / RESULTS}: holds files without a manifest; give another --out")
                write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
            return
        for key in {**before, **manifest}:
            if before.get(key) != manifest.get(key):
                raise ConfigError(
                    f"{self.folder}: was begun with {key} {shown(before.get(key))}, now it is "
                    f"{shown(manifest.get(key))}; results of both do not belong together: give another --out"
                )

    def damaged(self) -> Iterator[Path]:
        """The shards that are missing, or whose content is not what the ledger says."""
        for entry in self.ledger().values():
            if not self._is_there(entry) or _digest(self.path(entry)) != entry.sha256:
                yield self.path(entry)

    def _entry(self, number: int, line: bytes) -> ShardEntry:
        try:
            return ShardEntry(**json.loads(line))
        except (ValueError, TypeError):
            raise ConfigError(f"{self.folder / LEDGER}: line {number} is not of a run; give another --out") from None

    def _is_there(self, entry: ShardEntry) -> bool:
        path = self.path(entry)
        return path.is_file() and path.stat().st_size == entry.bytes

    def _ledger(self) -> bytes:
        path = self.folder / LEDGER
        return path.read_bytes() if path.exists() else b""

    def _remove_unfinished(self) -> None:
        for path in [*self.folder.glob(f"*{UNFINISHED}"), *self.folder.glob(f"*/*{UNFINISHED}")]:
            path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """An OSError as a ConfigError that says what to do."""
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{error.filename or self.folder}: can't be written: {error.strerror or error}; what is done is kept, "
                "and the same command goes on from there"
            ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(entry: ShardEntry) -> bytes:
    return json.dumps(asdict(entry)).encode() + b"\n"


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: after a crash it has its old content or its new. Raises OSError."""
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """The same for content that comes in chunks."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
