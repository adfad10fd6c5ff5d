"""Hostile requests, as benchmarks/hostile.py sends them: huge, deep, torn or endless bodies over each protocol."""

import base64
import contextlib
import http.client
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from benchmarks.server import MODELS, Endpoints
from benchmarks.v2_requests import RAW, Inference, Request, unary

MODEL = "clothing"
SAMPLE = MODELS / MODEL / "sample.jpg"
PREDICT, INFER = f"/v1/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"
TIMEOUT = 120.0
MB = 1_000_000
NUMBERS = 20 * MB // 2 // 3000 * 3000
"""Elements of one digit and a comma that fit into 20 MB of JSON, in rows of a thousand pixels."""

Send = Callable[[Endpoints], str]
"""Sends a request and returns the server's answer in words."""


@dataclass(frozen=True)
class Attack:
    name: str
    protocol: str
    send: Send


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def compressed(size: int, window: int) -> bytes:
    """`size` zeros, compressed in pieces of 1 MB."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, window), bytes(MB)
    parts = [packer.compress(piece) for _ in range(size // MB)]
    return b"".join([*parts, packer.compress(bytes(size % MB)), packer.flush()])


@cache
def bomb() -> bytes:
    """A flat PNG of 13000x13000: half a gigabyte once it is decoded."""
    side = 13_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = compressed((3 * side + 1) * side, zlib.MAX_WBITS)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def zipped() -> bytes:
    return compressed(1000 * MB, zlib.MAX_WBITS | 16)


def in_chunks(data: bytes) -> bytes:
    """A chunked HTTP body with one byte a chunk."""
    return b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"


def v2_json(name: str, datatype: str, shape: Sequence[int], data: bytes) -> bytes:
    """A v2 request with one input; `data` is JSON already."""
    head = json.dumps({"name": name, "datatype": datatype, "shape": shape}).encode()
    return b'{"inputs":[' + head[:-1] + b',"data":' + data + b"}]}"


def typed(count: int) -> Any:
    """A gRPC message with `count` pixel values as one number each: a byte on the wire."""
    request = pb.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="PIXELS", datatype="UINT8", shape=[1, count // 3000, 1000, 3])
    tensor.contents.uint_contents.extend(bytes(count))
    return request


def message(raw: bytes) -> Any:
    """A gRPC message whose IMAGE tensor has these raw contents, well formed or not."""
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    return request


def post(path: str, body: Callable[[], Request]) -> Send:
    def send(endpoints: Endpoints) -> str:
        data, headers = body()
        link = http.client.HTTPConnection(*endpoints.http, timeout=TIMEOUT)
        with contextlib.closing(link), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.putrequest("POST", path, skip_accept_encoding=True)
            if headers.get("Transfer-Encoding") != "chunked":
                headers = {"Content-Length": str(len(data)), **headers}
            for name, value in headers.items():
                link.putheader(name, value)
            link.endheaders()
            with contextlib.suppress(OSError):  # the server may have answered already
                link.send(data)
            reply = link.getresponse()
            return f"{reply.status} {sentence(reply.read())}"
        return "connection closed"

    return send


def sentence(body: bytes) -> str:
    """The `error` of a JSON answer, or nothing."""
    with contextlib.suppress(ValueError):
        return str(json.loads(body).get("error", ""))
    return ""


def call(request: Callable[[], Any], compression: grpc.Compression | None = None) -> Send:
    def send(endpoints: Endpoints) -> str:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(endpoints.grpc, options, compression) as channel:
            try:
                unary(channel)(request(), timeout=TIMEOUT)
            except grpc.RpcError as error:
                return f"{error.code().name} {error.details()}"
        return "OK"

    return send


def attacks() -> list[Attack]:
    """All of them; bodies that take long to build are built here, before anything is measured."""
    zipped()
    return [*huge_images(), *compressed_bodies(), *malformed(), *torn_images(), *many_values(), *over_the_limit()]


def huge_images() -> list[Attack]:
    name, image = "PNG of 13000x13000", Inference([bomb()])
    text = v2_json("IMAGE", "BYTES", [1, 1], json.dumps([base64.b64encode(bomb()).decode()]).encode())
    return [
        Attack(name, "v1", post(PREDICT, lambda: (bomb(), {}))),
        Attack(name, "v2 binary", post(INFER, image.as_binary)),
        Attack(name, "v2 raw", post(INFER, lambda: (bomb(), RAW))),
        Attack(name, "v2 JSON", post(INFER, lambda: (text, {}))),
        Attack(name, "gRPC", call(lambda: image.as_message(MODEL))),
    ]


def compressed_bodies() -> list[Attack]:
    name, gzip = "1 GB of zeros, gzip", {"Content-Encoding": "gzip"}
    return [
        Attack(name, "v1", post(PREDICT, lambda: (zipped(), gzip))),
        Attack(name, "v2", post(INFER, lambda: (zipped(), gzip))),
        Attack("200 MB of zeros, gzip", "gRPC", call(lambda: message(bytes(200 * MB)), grpc.Compression.Gzip)),
    ]


def malformed() -> list[Attack]:
    sample, chunked = SAMPLE.read_bytes(), {"Transfer-Encoding": "chunked"}
    long_header = {"Inference-Header-Content-Length": str(2**63)}
    far, huge = v2_json("PIXELS", "UINT8", [2**62], b"[0]"), Inference([sample], shape=(2**62, 1))
    return [
        Attack("lists in lists, 100,000 deep", "v2", post(INFER, lambda: (b'{"inputs":' + b"[" * 100_000, {}))),
        Attack("the same, closed", "v2", post(INFER, lambda: (b"[" * 100_000 + b"]" * 100_000, {}))),
        Attack("65,000 one-byte chunks", "v1", post(PREDICT, lambda: (in_chunks(bytes(65_000)), chunked))),
        Attack("65,000 one-byte chunks", "v2", post(INFER, lambda: (in_chunks(b"[" * 65_000), chunked))),
        Attack("a JSON length of 2^63", "v2", post(INFER, lambda: (sample, long_header))),
        Attack("shape [2^62]", "v2 JSON", post(INFER, lambda: (far, {}))),
        Attack("shape [2^62, 1]", "v2 binary", post(INFER, huge.as_binary)),
        Attack("shape [2^62, 1]", "gRPC", call(lambda: huge.as_message(MODEL))),
    ]


def torn_images() -> list[Attack]:
    torn = SAMPLE.read_bytes()[: SAMPLE.stat().st_size // 2]
    return [
        Attack("half a JPEG", "v1", post(PREDICT, lambda: (torn, {}))),
        Attack("half a JPEG", "v2 binary", post(INFER, Inference([torn]).as_binary)),
        Attack("half a JPEG", "gRPC", call(lambda: Inference([torn]).as_message(MODEL))),
    ]


def many_values() -> list[Attack]:
    zeros = b"[" + b"0," * (NUMBERS - 1) + b"0]"
    numbers = v2_json("PIXELS", "UINT8", [1, NUMBERS // 3000, 1000, 3], zeros)
    lists = v2_json("PIXELS", "UINT8", [1, 1, 1, 3], b"[" + b"[]," * (6 * MB) + b"[]]")
    objects = v2_json("PIXELS", "UINT8", [1, 1, 1, 3], b"[" + b"{}," * (6 * MB) + b"{}]")
    pixels = typed(19 * MB // 3000 * 3000)
    return [
        Attack("20 MB of JSON numbers as PIXELS", "v2", post(INFER, lambda: (numbers, {}))),
        Attack("18 MB of empty lists as PIXELS", "v2", post(INFER, lambda: (lists, {}))),
        Attack("18 MB of empty objects as PIXELS", "v2", post(INFER, lambda: (objects, {}))),
        Attack("19 million numbers as PIXELS", "gRPC", call(lambda: pixels)),
    ]


def over_the_limit() -> list[Attack]:
    name = "21 MB, over the limit"
    return [
        Attack(name, "v1", post(PREDICT, lambda: (bytes(21 * MB), {}))),
        Attack(name, "v2", post(INFER, lambda: (bytes(21 * MB), {}))),
        Attack(name, "gRPC", call(lambda: message(bytes(21 * MB)))),
    ]
