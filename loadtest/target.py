"""The server to load: its address, a key and TLS; and the flags that name one which is running already."""

import argparse
import http.client
import json
import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEY = "TTA_KEY"
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """`cacert` is a PEM file of authorities, for a certificate that the system does not trust."""

    url: str
    key: str = ""
    cacert: Path | None = None

    @cached_property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises SystemExit for what is no such URL."""
        parts = urlsplit(self.url)
        if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise SystemExit(
                f"--url is {self.url!r}; it must be like http://127.0.0.1:8000 or https://tta.example.org, without path"
            )
        return parts.hostname, parts.port or PORTS[parts.scheme]

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """For https. Raises SystemExit if `cacert` can't be read."""
        if urlsplit(self.url).scheme != "https":
            return None
        try:
            return ssl.create_default_context(cafile=self.cacert)
        except ssl.SSLError:
            raise SystemExit(f"--cacert {self.cacert}: is no PEM file of certificates") from None
        except OSError as error:
            raise SystemExit(f"--cacert {self.cacert}: {error.strerror}") from None

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Host": urlsplit(self.url).netloc} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def max_budget_ms(self, model: str) -> float:
        """The model's maximum budget. Raises SystemExit if the server can't be reached or does not serve it."""
        found = self._get(f"/v1/models/{model}")
        if "budget" not in found:
            raise SystemExit(f"the server at {self.url} does not serve {model}: {found.get('error')}")
        return float(found["budget"]["max_ms"])

    def _get(self, path: str) -> dict[str, Any]:
        if self.tls is None:
            link = http.client.HTTPConnection(*self.address, timeout=10)
        else:
            link = http.client.HTTPSConnection(*self.address, timeout=10, context=self.tls)
        try:
            link.request("GET", path, headers=self.headers)
            answer: dict[str, Any] = json.loads(link.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SystemExit(f"no tta-server answers at {self.url}: {error}") from None
        finally:
            link.close()
        return answer


def add_arguments(parser: Any) -> None:
    """Flags of a server that is running, for `target_of`."""
    parser.add_argument("--url", help="a running server, like https://tta.example.org; default: start one on a free "
                        "port, and end it")  # fmt: skip
    parser.add_argument("--key-file", type=Path, metavar="FILE",
                        help=f"file whose first key is sent, as --keys of a server; default: {KEY}")  # fmt: skip
    parser.add_argument("--cacert", type=Path, metavar="PEM",
                        help="authorities of the server's certificate; default: the system's")  # fmt: skip


def target_of(options: argparse.Namespace, url: str) -> Target:
    """The server at `url` with the key and certificate of the flags. Raises SystemExit."""
    key = os.environ.get(KEY, "") if options.key_file is None else read_key(options.key_file)
    return Target(url.rstrip("/"), key, options.cacert)


def read_key(path: Path) -> str:
    """The first key of a file; `#` begins a comment. Raises SystemExit."""
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--key-file {path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    key = next(filter(None, lines), "")
    if not key:
        raise SystemExit(f"--key-file {path}: holds no key; it has one a line")
    return key
