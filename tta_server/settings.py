"""What a deployment may set; each field is one setting, with its bounds and its description."""

import re
from importlib.util import find_spec
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tta_server.errors import shown
from tta_server.imaging.decoding import Limits
from tta_server.serving.cores import available_cores


def _bundled() -> Path:
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "models"
    found = find_spec("tta_server_models")
    return Path(found.origin).parent if found and found.origin else Path("models")


BUNDLED = _bundled()
"""The models of a checkout, or of the package tta-server-models; without both `models` in the working directory."""

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


def _split_words(value: Any) -> Any:
    """An environment variable holds a list as words."""
    return value.split() if isinstance(value, str) else value


NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<folder>.+)")


def _check_named(text: str) -> str:
    """Raises ValueError."""
    if NAMED.fullmatch(text) is None:
        raise ValueError(
            f"{shown(text)} is not NAME=DIR; NAME has letters, digits, '_', '-' and '.', the first a letter or a "
            "digit, and DIR is the folder of one model, like clothing=/mnt/models"
        )
    return text


def _check_names(stated: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError."""
    names = [text.partition("=")[0] for text in stated]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"the name {twice[0]} is given twice; each model needs a name of its own")
    return stated


NamedFolders = Annotated[
    tuple[Annotated[str, AfterValidator(_check_named)], ...],
    BeforeValidator(_split_words),
    AfterValidator(_check_names),
]
Origins = Annotated[tuple[Annotated[str, AfterValidator(read_origin)], ...], BeforeValidator(_split_words)]


class Settings(BaseModel):
    """What a deployment may set.

    `cli.sources` reads it: the field `port` is the flag `--port`, the variable `TTA_PORT` and the key `port` of a TOML
    file. A validation alias replaces the field's name in all three.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    models: Path = Field(BUNDLED, description="Folder of models: <name>/tta.yaml and <name>/1/model.onnx.")
    model: NamedFolders = Field(
        (),
        description="NAME=DIR: serve the model in the folder DIR as NAME. DIR holds tta.yaml and 1/model.onnx, or "
        "Triton's config.pbtxt and 1/model.onnx, or one ONNX file whose metadata describes it. Repeat the flag for "
        "several, separate them by spaces in the variable. --models is then served only if it is given too.",
    )
    slots: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="Threads that run batches; default: one a core, fewer under a CPU quota, and one beside a device "
        "or a Triton server, which has one for each of its permits.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that decode and make answers beside the slots of a device or a Triton server; 0: slots do "
        "it. Where it is not set and a model runs there: the cores less two.",
    )
    strict: bool = Field(False, description="End if a model of the folder can't be served; default: serve the others.")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65_535, description="HTTP port; 0 picks a free one.")
    grpc: bool = Field(True, description="Serve gRPC too.")
    grpc_port: int = Field(8001, ge=0, le=65_535, description="gRPC port; 0 picks a free one.")
    shutdown_delay_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which the server is not ready but admits requests, until load balancers "
        "have noticed; Ctrl-C and a second signal skip them.",
    )
    drain_seconds: float = Field(10.0, ge=0, description="Seconds that a shutdown waits for admitted requests.")

    keys: Path | None = Field(None, description="File of bearer keys, one a line; without it requests need no key.")
    tls_cert: Path | None = Field(None, description="PEM certificate; with it both ports speak TLS.")
    tls_key: Path | None = Field(None, description="PEM private key of the certificate.")
    cors_origin: Origins = Field(
        (),
        description="Origin whose web pages may send requests, like https://example.org, or * for all; repeat the "
        "flag for several, separate them by spaces in the variable.",
    )
    model_control: bool = Field(False, description="Let clients load and unload models (v2/repository).")

    max_bytes: int = Field(20_000_000, ge=1_000, description="Largest image file accepted, in bytes.")
    max_pixels: int = Field(25_000_000, ge=1, description="Largest image accepted, in pixels.")
    max_waiting: int = Field(1024, ge=1, description="Images that may wait; further requests get 429.")
    max_waiting_mb: int = Field(1000, ge=1, description="Memory that waiting images may take, in MB.")
    cache_mb: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Memory for answers, in MB, that equal requests get; they also share a run. 0: no cache.",
    )
    max_images_per_request: int = Field(
        64, ge=1, validation_alias="max_batch", description="Images that a v2 request may hold."
    )
    max_connections: int = Field(1024, ge=1, description="HTTP connections, and gRPC calls, open at once.")
    api_bound: bool = Field(True, description="Refuse requests at once while the event loop is too far behind.")
    receive_seconds: float = Field(30.0, gt=0, description="Seconds within which a request must arrive in full.")

    traces: bool = Field(
        False,
        description="Send traces to an OpenTelemetry collector, as the OTEL_* variables say; needs the extra otel.",
    )

    @property
    def named_folders(self) -> dict[str, Path]:
        """Folders of single models by the names under which they are served."""
        pairs = (text.partition("=") for text in self.model)
        return {name: Path(folder) for name, _, folder in pairs}

    @property
    def repository(self) -> Path | None:
        """The folder of models; None if it is not stated and single models are."""
        return None if self.model and "models" not in self.model_fields_set else self.models

    @property
    def limits(self) -> Limits:
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)


def public_name(field: str) -> str:
    """The name of a setting outside the code, with underscores."""
    return str(Settings.model_fields[field].validation_alias or field)
