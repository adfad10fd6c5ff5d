"""A model that a Triton server runs, or another server of the Open Inference Protocol, called over gRPC.

Nothing here imports gRPC; `backends/triton/backend.py` does, once a model asks for it.
"""

from collections.abc import Mapping
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
    number of batches that may be in flight together. `headers` go with every call; they may hold secrets. With
    `is_ensemble` the model is an ensemble around the one whose batches are run.
    """

    urls: tuple[str, ...]
    model: str
    version: str = ""
    permits: int = 4
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: Tls = field(default=Tls(), repr=False)
    is_ensemble: bool = False

    @property
    def device(self) -> str:
        """Models of the same servers share a pool."""
        return " ".join(self.urls)


class TensorInfo(NamedTuple):
    """The protocol's name of a tensor's type, like FP32, and its shape, -1 for free axes."""

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EnsembleInfo:
    """An ensemble as its server describes it.

    `model` and `version` are those of the model in it, "" for the server's choice; `parameters` are those of its
    config.
    """

    model: str
    version: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    parameters: Mapping[str, str]
