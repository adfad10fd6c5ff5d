"""The keys of `backend:` in `tta.yaml` for a model that a Triton server runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tta_server.backends.triton import Target, Tls
from tta_server.errors import ConfigError, shown
from tta_server.errors.validation import StrictModel

URL = re.compile(r"grpcs?://(?:[A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\]):[1-9][0-9]{0,4}")
HEADER = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
VALUE = re.compile(r"[ -~]+")


def _read_url(url: str) -> str:
    if not URL.fullmatch(url) or int(url.rpartition(":")[2]) > 65_535:
        raise ValueError(f"{shown(url)} is no address; it takes grpc://host:port, or grpcs://host:port with TLS")
    return url


def _read_version(found: Any) -> str:
    version = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
    if not isinstance(version, str) or not re.fullmatch("[0-9]*", version):
        raise ValueError(f"version is {shown(found)}; it should be a whole number, or empty for the server's choice")
    return version


def _as_list(found: Any) -> Any:
    """A plain word is a list of one."""
    return [found] if isinstance(found, str) else found


def _read_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    for name, value in lower.items():
        if not HEADER.fullmatch(name) or not VALUE.fullmatch(value):
            raise ValueError(
                f"headers has {shown(name)}, whose name or value gRPC does not send; a name takes letters, digits, "
                "dots, - and _ and does not begin with grpc- or end with -bin, a value printable ASCII"
            )
    return lower


Url = Annotated[str, AfterValidator(_read_url)]


class TlsConfig(StrictModel):
    """Names of PEM files, beside tta.yaml or as whole paths: authorities to trust; our certificate and its key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "TlsConfig":
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls has one of cert and key; give both or neither")
        return self


class TritonConfig(StrictModel):
    """Where the model runs, and how it is called; `version` "" is the server's choice.

    `views` says where views are made: here, or there, by the ensemble `model` that `tta-server export-triton` wrote.
    """

    name: Literal["triton"]
    url: Annotated[tuple[Url, ...], Field(min_length=1), BeforeValidator(_as_list)]
    model: Annotated[str, Field(min_length=1)]
    version: Annotated[str, BeforeValidator(_read_version)] = ""
    views: Literal["local", "graph"] = "local"
    permits: Annotated[int, Field(ge=1, le=256)] = 4
    headers: Annotated[dict[str, str], AfterValidator(_read_headers)] = Field(default_factory=dict, repr=False)
    tls: TlsConfig = TlsConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TritonConfig":
        if len(set(self.url)) < len(self.url):
            raise ValueError("url has an address twice; give each once")
        if self.tls != TlsConfig() and not all(url.startswith("grpcs://") for url in self.url):
            raise ValueError("tls needs addresses that begin with grpcs://; change url, or remove tls")
        return self

    def target(self, folder: Path) -> Target:
        """What the backend calls, with the files of a model's folder. Raises ConfigError for one that can't be read."""
        files = {key: name and _read(folder / name, key) for key, name in self.tls.model_dump().items()}
        return Target(
            self.url,
            self.model,
            self.version,
            self.permits,
            tuple(self.headers.items()),
            Tls(**files),
            self.views == "graph",
        )


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"backend.tls.{key}: {path} can't be read: {error.strerror}") from error
