"""Everything that a deployment may set."""

import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tta_server.errors import shown
from tta_server.imaging.decoding import Limits
from tta_server.serving.cores import available_cores

PACKAGE = Path(__file__).parent
BUNDLED = next((p for p in (PACKAGE / "models", PACKAGE.parent / "models") if p.is_dir()), Path("models"))
"""The models that come with the package, or with a checkout."""


ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[(?P<ipv6>[0-9a-f:.]+)\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _is_origin(text: str) -> bool:
    found = ORIGIN.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    try:
        return found["ipv6"] is None or str(IPv6Address(found["ipv6"])) == found["ipv6"]
    except ValueError:
        return False


def read_origin(text: str) -> str:
    """As browsers write it: lower case, no default port. Raises ValueError."""
    origin = text.lower() if text.isascii() else text
    if origin != "*" and not _is_origin(origin):
        raise ValueError(
            f"{shown(text)} is no origin; it takes scheme://host or scheme://host:port, like https://example.org, or "
            "*; several are separated by spaces, not commas, and a host is written in ASCII (xn--...)"
        )
    return origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], ""))


class Settings(BaseModel):
    """Everything that a deployment may set; the command line and `TTA_...` variables fill it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Path = BUNDLED
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    grpc: bool = True
    grpc_port: int = Field(default=8001, ge=0, le=65_535)
    slots: int = Field(default_factory=available_cores, ge=1, le=1024)
    max_bytes: int = Field(default=20_000_000, ge=1_000)
    max_pixels: int = Field(default=25_000_000, ge=1)
    max_waiting: int = Field(default=1024, ge=1)
    max_waiting_mb: int = Field(default=1000, ge=1)
    max_batch: int = Field(default=64, ge=1)
    max_connections: int = Field(default=1024, ge=1)
    receive_seconds: float = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=10.0, ge=0)
    keys: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    model_control: bool = False
    cors_origin: tuple[Annotated[str, AfterValidator(read_origin)], ...] = ()

    @property
    def limits(self) -> Limits:
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)
