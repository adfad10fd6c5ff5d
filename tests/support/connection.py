"""Raw HTTP connections to a server, byte by byte."""

import json
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import parse_headers
from itertools import chain, repeat
from typing import Any

import pytest

from tests.support import pictures
from tests.support.serving import PATIENCE, Server

PREDICT = "/v1/models/cifar10/predict?budget_ms=10000&min_views=all"
INFER = "/v2/models/cifar10/infer"
TOY = "/v1/models/toy/predict?budget_ms=10000&min_views=all"
GET = b"GET /v2 HTTP/1.1\r\nHost: tests\r\n\r\n"
IMAGE = pictures.png(32, 32)
MAX_CONNECTIONS = 20
MAX_HEAD = 65_536


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def error(self, status: int, code: str) -> str:
        """Check what every error response has; return its sentence."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/json"
        payload = json.loads(self.body)
        assert set(payload) == {"error", "code"}
        assert payload["code"] == code
        sentence: str = payload["error"]
        assert sentence
        return sentence


class Connection:
    """One connection, byte by byte."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def responds(self, seconds: float) -> bool:
        """Whether the server sends something or disconnects within that time."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def trickle(self, data: bytes) -> None:
        """Send a byte now and then, the last one repeatedly, until the server sends something."""
        for byte in chain(data, repeat(data[-1])):
            self.send(bytes([byte]))
            if self.responds(0.02):
                return

    def reply(self, method: str = "POST") -> Reply:
        version, _, rest = self._file.readline().decode().partition(" ")
        assert version == "HTTP/1.1", rest
        headers = {name.lower(): value for name, value in parse_headers(self._file).items()}
        size = 0 if method == "MAX_HEAD" else int(headers.get("content-length", 0))
        return Reply(int(rest[:3]), headers, self._file.read(size))

    def is_closed(self) -> bool:
        """Wait until the server disconnects without sending more."""
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def connected(server: Server) -> Iterator[Connection]:
    with closing(Connection(server)) as connection:
        yield connection


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request."""
    lines = (f"POST {path} HTTP/1.1", "Host: tests", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def chunked(path: str, chunks: Sequence[bytes], *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: tests", "Transfer-Encoding: chunked", *headers, "", "")
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(lines).encode() + body + b"0\r\n\r\n"


def infer_json(image: bytes = IMAGE, **more: Any) -> tuple[bytes, int]:
    """A v2 request with a binary input, JSON outputs; and the length of its JSON."""
    size = {"binary_data_size": len(image) + 4}
    head = {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": size}], **more}
    encoded = json.dumps({"parameters": {"timeout": 10_000_000, "tta_min_views": "all"}, **head}).encode()
    return encoded + struct.pack("<I", len(image)) + image, len(encoded)


def infer(image: bytes = IMAGE, *headers: str, **more: Any) -> bytes:
    body, length = infer_json(image, **more)
    return post(INFER, body, f"Inference-Header-Content-Length: {length}", *headers)


def outputs(reply: Reply) -> list[float]:
    """The probabilities of a v2 response, and the index of the highest."""
    assert reply.status == 200, reply
    found = {output["name"]: output["data"] for output in json.loads(reply.body)["outputs"]}
    return [*found["PROBABILITIES"], *found["INDEX"]]


def top(reply: Reply) -> dict[str, float]:
    assert reply.status == 200, reply
    return {entry["label"]: entry["probability"] for entry in json.loads(reply.body)["prediction"]["top"]}


def like(answer: Any) -> Any:
    """Equal but for the last bits, which depend on the batches."""
    return pytest.approx(answer, abs=1e-5)
