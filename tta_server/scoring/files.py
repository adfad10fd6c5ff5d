"""Files of this machine, and those that fsspec reads at a URL: opened, read within limits, listed."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any

from tta_server.errors import ConfigError, InvalidInput, TooLarge, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import CHUNK_BYTES, read_file

URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
"""Also a chain, such as simplecache::s3://bucket/a.png."""
LOCAL = "file://"
STREAMED = ("http", "https")
"""Read as one response: a server need not send parts of a file, and `?` is no pattern there."""
UNCACHED = {"cache_type": "none"}
"""What is not asked for is not read ahead."""
STREAM = {"block_size": 0, "size": 1}
"""One response; any size spares a request for it."""
BUSY = (408, 429)
RETRIES = (0.2, 1.0)
"""Seconds after which a file that could not be read is tried again; object stores refuse some requests under load."""


def is_url(path: str) -> bool:
    """True for what fsspec reads; `file://` is this machine."""
    return URL.match(path) is not None and not path.startswith(LOCAL)


def local_path(path: str) -> str:
    """The path without `file://`."""
    return path.removeprefix(LOCAL)


def join(folder: str, name: str) -> str:
    """The place of `name`, which may be a URL, or a path relative to `folder` or from the root."""
    if URL.match(name):
        return local_path(name)
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) and not name.startswith("/") else os.path.join(folder, name)


def absolute(path: str) -> str:
    """A URL, or a path as a process elsewhere has it."""
    return path if is_url(path) else os.path.abspath(path)


def parent(path: str) -> str:
    """The folder of a file, without a `/` at its end."""
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Raises ConfigError with the command that installs what is missing."""
    if find_spec("fsspec") is None:
        raise ConfigError(f"{url}: URLs need fsspec: pip install 'tta-server[fsspec]'")
    try:
        fs, path = import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or "PACKAGE"
        raise ConfigError(f"{url}: {error}: pip install 'tta-server[fsspec]' {package}") from None
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        raise ConfigError(f"{url}: can't be opened: {first_line(error)}") from None
    return fs, path


def check_schemes(names: Iterable[str]) -> None:
    """Raise ConfigError for the first URL that no installed file system reads."""
    seen = set()
    for name in names:
        if is_url(name) and (scheme := name.partition(":")[0]) not in seen:
            seen.add(scheme)
            file_system(name)


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """The file, open for reading at any place. Raises ConfigError where it, or a part of it, can't be read."""
    kinds = Exception if is_url(path) else OSError
    try:
        with _open(path) as file:
            yield file
    except TTAError:
        raise
    except kinds as error:
        raise ConfigError(f"{path}: {reason(error)}") from error


def _open(path: str, **how: Any) -> Any:
    if not is_url(path):
        return open(path, "rb")
    fs, inner = file_system(path)
    return fs.open(inner, "rb", **how)


def read_part(path: str, first: int, length: int) -> bytes:
    """At most `length` bytes from byte `first` on. Raises InvalidInput or OSError."""
    with _explained() if is_url(path) else nullcontext(), _open(path, **UNCACHED) as file:
        file.seek(first)
        return bytes(file.read(length))


def read_image(path: str, limits: Limits) -> bytes:
    """A file of at most `max_bytes`, of which no more is read. Raises InvalidInput, TooLarge or OSError."""
    if not is_url(path):
        return read_file(path, limits)
    for seconds in RETRIES:
        try:
            return _read_url(path, limits.max_bytes)
        except InvalidInput as error:
            if _is_final(error.__cause__):
                raise
        time.sleep(seconds)
    return _read_url(path, limits.max_bytes)


def _is_final(cause: BaseException | None) -> bool:
    """True if the file is not there, or not for us; aiohttp has a status for it."""
    status = getattr(cause, "status", 0)
    return isinstance(cause, FileNotFoundError | PermissionError) or (400 <= status < 500 and status not in BUSY)


def _read_url(url: str, max_bytes: int) -> bytes:
    with _explained(), _open(url, **(STREAM if url.startswith(STREAMED) else UNCACHED)) as file:
        parts, left = list[bytes](), max_bytes + 1
        while left and (part := file.read(min(CHUNK_BYTES, left))):
            parts.append(bytes(part))
            left -= len(part)
    if not left:
        raise TooLarge(f"the file has more than {max_bytes} bytes, the limit for an image (--max-bytes)")
    return b"".join(parts)


@contextmanager
def _explained() -> Iterator[None]:
    """Any error of a file system as InvalidInput."""
    try:
        yield
    except TTAError:
        raise
    except Exception as error:
        raise InvalidInput(reason(error)) from error


def reason(error: Exception) -> str:
    """Why a file can't be read, as the end of a sentence that begins with its path."""
    if isinstance(error, FileNotFoundError):
        return "can't be read: No such file or directory"
    return f"can't be read: {getattr(error, 'strerror', None) or first_line(error)}"


def first_line(error: Exception) -> str:
    """The error's text up to the end of a line, or its name."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
