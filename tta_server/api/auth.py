"""Who may ask, and over what: bearer keys from a file, a certificate for TLS."""

import hashlib
import hmac
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from tta_server.errors import ConfigError, Unauthenticated

log = logging.getLogger(__name__)

SECONDS = 1.0
"""A changed file is seen within this time."""
SHORTEST = 16
OPEN_PATHS = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What health checks ask needs no key."""


class Keys:
    """One key a line, `#` begins a comment. The file is read again when it has changed; one that can't be read then
    leaves the keys as they were."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._path = path
        self._looked = time.monotonic()
        self._changed = self._stamp()
        self._digests = _read(path)

    def check(self, authorization: str) -> None:
        """Takes `Bearer <key>`; raises Unauthenticated."""
        self._look()
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("a key is needed here: send the header Authorization: Bearer <key>")
        digest = _digest(key.strip())
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419 - all, to take as long
            raise Unauthenticated("this key is not known here")

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < SECONDS:
            return
        self._looked = now
        stamp = self._stamp()
        if stamp == self._changed:
            return
        self._changed = stamp
        try:
            self._digests = _read(self._path)
        except ConfigError as mistake:
            log.error("the keys stay as they were: %s", mistake)

    def _stamp(self) -> tuple[int, int]:
        """Another one when the file is another; of none zeros."""
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise ConfigError(f"{path}: the file of keys can't be read: {reason}") from error
    keys = [line for line in lines if line]
    if not keys:
        raise ConfigError(f"{path}: holds no key: one a line is expected")
    if short := [number for number, line in enumerate(lines, 1) if line and len(line) < SHORTEST]:
        raise ConfigError(f"{path}: the key in line {short[0]} has under {SHORTEST} characters")
    return tuple(map(_digest, keys))


def _digest(key: str) -> bytes:
    """Of one length for all, so that comparing tells nothing of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files' contents."""

    certificate: bytes
    key: bytes


def read_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """Raises ConfigError where one is missing, can't be read, or does not fit the other."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("TLS takes both, --tls-cert and --tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return Tls(certificate.read_bytes(), key.read_bytes())
    except OSError as error:
        reason = "they are not a certificate and its key in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"TLS can't use {certificate} and {key}: {reason}") from error


@dataclass(frozen=True, slots=True)
class Access:
    """Whose requests are taken, and whether over TLS."""

    keys: Keys | None = None
    tls: Tls | None = None


EVERYBODY = Access()


def read_access(keys: Path | None, certificate: Path | None, key: Path | None) -> Access:
    """Raises ConfigError."""
    return Access(Keys(keys) if keys else None, read_tls(certificate, key))
