"""Images below a URL, listed by fsspec."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_server.errors import ConfigError
from tta_server.imaging.inputs import SUFFIXES
from tta_server.scoring.files import file_system, reason

VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""What file systems call a file's version or the time of its change; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Names in sorted order, each with a digest of length and version; `others` counts files that are no images."""

    names: list[str]
    stamps: list[bytes]
    others: int = 0


def list_folder(url: str) -> Listed:
    """All images below a URL, by path relative to it. Raises ConfigError where a folder can't be listed.

    Read a folder at a time: what fsspec states of a file is kept as a digest only.
    """
    fs, path = file_system(url)
    root, found, others = path.rstrip("/") + "/", list[tuple[str, bytes]](), 0
    try:
        for _, _, files in fs.walk(path, detail=True, on_error="raise"):
            for name, info in files.items():
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    found.append((info["name"].removeprefix(root), _stamp(info)))
                else:
                    others += name != ""  # the mark of an empty folder in an object store
            fs.invalidate_cache()
    except Exception as error:
        raise ConfigError(f"{url}: the folder {reason(error)}") from error
    return _sorted(found, others)


def list_pattern(url: str) -> Listed:
    """The files whose URL matches, by URL. Raises ConfigError."""
    fs, path = file_system(url)
    try:
        found = fs.glob(path, detail=True)
    except Exception as error:
        raise ConfigError(f"{url}: the folder {reason(error)}") from error
    files = ((name, info) for name, info in found.items() if info["type"] != "directory")
    return _sorted([(fs.unstrip_protocol(name), _stamp(info)) for name, info in files])


def stamp(url: str) -> bytes:
    """The digest of a file's length and version; of what is not there, of nothing. Raises ConfigError."""
    fs, path = file_system(url)
    try:
        return _stamp(fs.info(path))
    except Exception as error:
        raise ConfigError(f"{url}: {reason(error)}") from error


def _stamp(info: Mapping[str, Any]) -> bytes:
    version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
    return hashlib.blake2b(f"{info.get('size')}\0{version}".encode(), digest_size=8).digest()


def _sorted(found: list[tuple[str, bytes]], others: int = 0) -> Listed:
    found.sort()
    return Listed([name for name, _ in found], [each for _, each in found], others)
