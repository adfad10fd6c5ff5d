"""Authentication and TLS: bearer keys from a file, and a certificate."""

import hashlib
import hmac
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from tta_server.errors import ConfigError, Unauthenticated

log = logging.getLogger(__name__)

RELOAD_SECONDS = 1.0
"""Seconds between two checks whether the key file has changed."""
MIN_KEY_LENGTH = 16
OPEN_PATHS = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Paths of health checks, which need no key."""


class Keys:
    """The keys of a file: one per line, `#` begins a comment.

    The file is read again when it changes. If it can't be read then, the previous keys stay valid.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._path = path
        self._checked_at = time.monotonic()
        self._stamp = self._read_stamp()
        self._digests = _read_digests(path)

    def check(self, authorization: str) -> bytes:
        """The digest of the key of `Bearer <key>`; raises Unauthenticated."""
        self._reload_if_changed()
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("this server requires a key; send the header Authorization: Bearer <key>")
        digest = _digest(key.strip())
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419 - constant time
            raise Unauthenticated("unknown key; ask the operator of this server for a valid one")
        return digest

    def _reload_if_changed(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < RELOAD_SECONDS:
            return
        self._checked_at = now
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = _read_digests(self._path)
        except ConfigError as error:
            log.error("the previous keys stay valid: %s", error)

    def _read_stamp(self) -> tuple[int, int]:
        """Modification time and size of the file, zeros if there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_size


def _read_digests(path: Path) -> tuple[bytes, ...]:
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"{path}: the key file can't be read: {reason}") from error
    keys = [line for line in lines if line]
    if not keys:
        raise ConfigError(f"{path}: the key file holds no key; write one per line")
    if short := [number for number, line in enumerate(lines, 1) if line and len(line) < MIN_KEY_LENGTH]:
        raise ConfigError(f"{path}: the key in line {short[0]} has fewer than {MIN_KEY_LENGTH} characters")
    return tuple(map(_digest, keys))


def _digest(key: str) -> bytes:
    """Of one length for all keys, so that the time of a comparison reveals nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Tls:
    """Contents of the PEM files."""

    certificate: bytes
    key: bytes


def read_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """Raises ConfigError if only one is given, one can't be read, or they do not belong together."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("TLS needs both --tls-cert and --tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return Tls(certificate.read_bytes(), key.read_bytes())
    except OSError as error:
        reason = "they are not a PEM certificate and its key" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"TLS can't use {certificate} and {key}: {reason}") from error


@dataclass(frozen=True, slots=True)
class Access:
    """Which keys are accepted (None: no key is needed) and the certificate (None: no TLS)."""

    keys: Keys | None = None
    tls: Tls | None = None


OPEN_ACCESS = Access()


def read_access(keys: Path | None, certificate: Path | None, key: Path | None) -> Access:
    """Raises ConfigError."""
    return Access(Keys(keys) if keys else None, read_tls(certificate, key))
