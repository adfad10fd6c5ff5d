"""A model that a Triton server runs, or another server of the Open Inference Protocol, called over gRPC.

Nothing here imports gRPC; `backends/triton/backend.py` does, once a model asks for it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Tls(NamedTuple):
    """PEM files' contents; None where the system's own, or none, is used."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A model on a server, or on several that serve the same.

    `urls` are grpc://host:port, or grpcs:// with TLS; an empty `version` is the server's choice. `permits` is the
    number of batches that may be in flight together. `headers` go with every call; they may hold secrets.
    """

    urls: tuple[str, ...]
    model: str
    version: str = ""
    permits: int = 4
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: Tls = field(default=Tls(), repr=False)

    @property
    def device(self) -> str:
        """Models of the same servers share a pool."""
        return " ".join(self.urls)
