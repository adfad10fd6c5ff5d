"""What hostile requests cost: the answer, how soon, what memory grew by, and how long somebody else waited meanwhile.

One server for all of it, as it is by default. Each request goes over every door that it makes sense for; another
client asks for /livez all the while, one time after the other, and after each the server has to answer a normal
request. Then hundreds of connections that send a byte a second, while normal clients go on.
"""

import argparse
import base64
import contextlib
import http.client
import json
import selectors
import socket
import statistics
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import grpc
from isolation import MODELS, SERVICE, Doors, element, served
from numpy import percentile
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2 as pb

MODEL = "clothing"
SAMPLE = MODELS / MODEL / "sample.jpg"
PREDICT, INFER = f"/v1/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"
NORMAL = f"{PREDICT}?budget_ms=2000"
"""What a normal client asks: with time enough that a busy machine's neighbours do not get it refused."""
PATIENCE = 120.0
MB = 1_000_000
NUMBERS = 20 * MB // 2 // 3000 * 3000
"""Elements of one digit and a comma that JSON of 20 MB has room for, in rows of a thousand pixels."""
SUCCESS_SHARE = 0.99
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""With which an HTTP/2 client begins."""


# ---- what is sent ----


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def compressed(size: int, window: int) -> bytes:
    """So many zeros, a piece at a time."""
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
    return b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"


def v2_json(name: str, datatype: str, shape: Sequence[int], data: bytes) -> bytes:
    """`data` is JSON already."""
    head = json.dumps({"name": name, "datatype": datatype, "shape": shape}).encode()
    return b'{"inputs":[' + head[:-1] + b',"data":' + data + b"}]}"


def v2_bytes(image: bytes, shape: Sequence[int] = (1, 1)) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": len(image) + 4}
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": shape, "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + element(image), {"Inference-Header-Content-Length": str(len(head))}


def message(raw: bytes, shape: Sequence[int] = (1, 1)) -> Any:
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=shape)
    return request


def typed(count: int) -> Any:
    """Pixels as one number each: a byte on the wire."""
    request = pb.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="PIXELS", datatype="UINT8", shape=[1, count // 3000, 1000, 3])
    tensor.contents.uint_contents.extend(bytes(count))
    return request


# ---- sending it ----


@dataclass(frozen=True)
class Attack:
    name: str
    door: str
    send: Callable[[Doors], str]
    """Returns what the server said."""


def post(path: str, body: Callable[[], tuple[bytes, dict[str, str]]]) -> Callable[[Doors], str]:
    def send(doors: Doors) -> str:
        data, headers = body()
        link = http.client.HTTPConnection(*doors.http, timeout=PATIENCE)
        with contextlib.closing(link), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.putrequest("POST", path, skip_accept_encoding=True)
            if headers.get("Transfer-Encoding") != "chunked":
                headers = {"Content-Length": str(len(data)), **headers}
            for name, value in headers.items():
                link.putheader(name, value)
            link.endheaders()
            with contextlib.suppress(OSError):  # it may have answered already
                link.send(data)
            reply = link.getresponse()
            return f"{reply.status} {sentence(reply.read())}"
        return "hung up"

    return send


def sentence(body: bytes) -> str:
    with contextlib.suppress(ValueError):
        return str(json.loads(body).get("error", ""))
    return ""


def call(request: Callable[[], Any], compression: grpc.Compression | None = None) -> Callable[[Doors], str]:
    def send(doors: Doors) -> str:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(doors.grpc, options, compression) as channel:
            infer = channel.unary_unary(
                f"{SERVICE}ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            )
            try:
                infer(request(), timeout=PATIENCE)
            except grpc.RpcError as error:
                return f"{error.code().name} {error.details()}"
        return "OK"

    return send


def attacks() -> list[Attack]:
    sample = SAMPLE.read_bytes()
    torn = sample[: len(sample) // 2]
    huge_length = {"Inference-Header-Content-Length": str(2**63)}
    whole = {"Inference-Header-Content-Length": "0"}
    chunked = {"Transfer-Encoding": "chunked"}
    zeros = b"[" + b"0," * (NUMBERS - 1) + b"0]"
    numbers = v2_json("PIXELS", "UINT8", [1, NUMBERS // 3000, 1000, 3], zeros)
    lists = v2_json("PIXELS", "UINT8", [1, 1, 1, 3], b"[" + b"[]," * (6 * MB) + b"[]]")
    objects = v2_json("PIXELS", "UINT8", [1, 1, 1, 3], b"[" + b"{}," * (6 * MB) + b"{}]")
    far = v2_json("PIXELS", "UINT8", [2**62], b"[0]")
    pixels = typed(19 * MB // 3000 * 3000)
    zipped()
    text = v2_json("IMAGE", "BYTES", [1, 1], json.dumps([base64.b64encode(bomb()).decode()]).encode())

    return [
        Attack("PNG of 13000x13000", "plain", post(PREDICT, lambda: (bomb(), {}))),
        Attack("PNG of 13000x13000", "v2 bytes", post(INFER, lambda: v2_bytes(bomb()))),
        Attack("PNG of 13000x13000", "v2 raw", post(INFER, lambda: (bomb(), whole))),
        Attack("PNG of 13000x13000", "v2 JSON", post(INFER, lambda: (text, {}))),
        Attack("PNG of 13000x13000", "gRPC", call(lambda: message(element(bomb())))),
        Attack("1 GB of zeros, gzip", "plain", post(PREDICT, lambda: (zipped(), {"Content-Encoding": "gzip"}))),
        Attack("1 GB of zeros, gzip", "v2", post(INFER, lambda: (zipped(), {"Content-Encoding": "gzip"}))),
        Attack("200 MB of zeros, gzip", "gRPC", call(lambda: message(bytes(200 * MB)), grpc.Compression.Gzip)),
        Attack("lists in lists, 100,000 deep", "v2", post(INFER, lambda: (b'{"inputs":' + b"[" * 100_000, {}))),
        Attack("the same, closed", "v2", post(INFER, lambda: (b"[" * 100_000 + b"]" * 100_000, {}))),
        Attack("65,000 one-byte chunks", "plain", post(PREDICT, lambda: (in_chunks(bytes(65_000)), chunked))),
        Attack("65,000 one-byte chunks", "v2", post(INFER, lambda: (in_chunks(b"[" * 65_000), chunked))),
        Attack("a JSON length of 2^63", "v2", post(INFER, lambda: (sample, huge_length))),
        Attack("shape [2^62]", "v2 JSON", post(INFER, lambda: (far, {}))),
        Attack("shape [2^62, 1]", "v2 bytes", post(INFER, lambda: v2_bytes(sample, [2**62, 1]))),
        Attack("shape [2^62, 1]", "gRPC", call(lambda: message(element(sample), [2**62, 1]))),
        Attack("half a JPEG", "plain", post(PREDICT, lambda: (torn, {}))),
        Attack("half a JPEG", "v2 bytes", post(INFER, lambda: v2_bytes(torn))),
        Attack("half a JPEG", "gRPC", call(lambda: message(element(torn)))),
        Attack("20 MB of JSON numbers as PIXELS", "v2", post(INFER, lambda: (numbers, {}))),
        Attack("18 MB of empty lists as PIXELS", "v2", post(INFER, lambda: (lists, {}))),
        Attack("18 MB of empty objects as PIXELS", "v2", post(INFER, lambda: (objects, {}))),
        Attack("19 million numbers as PIXELS", "gRPC", call(lambda: pixels)),
        Attack("21 MB, over the limit", "plain", post(PREDICT, lambda: (bytes(21 * MB), {}))),
        Attack("21 MB, over the limit", "v2", post(INFER, lambda: (bytes(21 * MB), {}))),
        Attack("21 MB, over the limit", "gRPC", call(lambda: message(bytes(21 * MB)))),
    ]


# ---- what it does ----


class Memory:
    """Of the server, in MB. The peak is forgotten on `reset` where the kernel allows that."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            (self._proc / "clear_refs").write_text("5")

    def now(self) -> float:
        return self._read("VmRSS")

    def peak(self) -> float:
        return self._read("VmHWM")

    def _read(self, name: str) -> float:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1000


@contextlib.contextmanager
def watching(doors: Doors) -> Iterator[list[float]]:
    """Milliseconds that each /livez took meanwhile, one after the other."""
    seen: list[float] = []
    end = threading.Event()

    def watch() -> None:
        link = http.client.HTTPConnection(*doors.http, timeout=PATIENCE)
        with contextlib.closing(link):
            while not end.is_set():
                start = time.perf_counter()
                link.request("GET", "/livez")
                link.getresponse().read()
                seen.append((time.perf_counter() - start) * 1e3)
                end.wait(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def measure(doors: Doors, attack: Attack) -> list[str]:
    """A row of the table."""
    memory, normal = Memory(doors.pid), post(NORMAL, lambda: (SAMPLE.read_bytes(), {}))
    memory.reset()
    before = memory.now()
    with watching(doors) as waits:
        start = time.perf_counter()
        said = attack.send(doors)
        seconds = time.perf_counter() - start
    growth = memory.peak() - before
    after = normal(doors).strip()
    answer = said if len(said) < 75 else said[:72] + "..."
    return [attack.name, attack.door, answer, f"{seconds:.2f}", f"{growth:.0f}", f"{max(waits):.0f}", after]


# ---- a byte a second ----


@dataclass
class Tally:
    ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.ms + other.ms, self.failed + other.failed)

    @property
    def success(self) -> float:
        return len(self.ms) / max(1, len(self.ms) + self.failed.total())


def normal_client(doors: Doors, end: float) -> Tally:
    image, tally = SAMPLE.read_bytes(), Tally()
    link = http.client.HTTPConnection(*doors.http, timeout=PATIENCE)
    while time.monotonic() < end:
        start = time.perf_counter()
        try:
            link.request("POST", NORMAL, image)
            reply = link.getresponse()
            body = reply.read()
        except OSError as error:
            link.close()
            tally.failed[type(error).__name__] += 1
            continue
        if reply.status == 200:
            tally.ms.append((time.perf_counter() - start) * 1e3)
        else:
            tally.failed[f"{reply.status} {sentence(body)[:50]}"] += 1
    link.close()
    return tally


def normal_clients(doors: Doors, clients: int, seconds: float) -> Tally:
    found, end = [], time.monotonic() + seconds
    threads = [
        threading.Thread(target=lambda: found.append(normal_client(doors, end)), daemon=True) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found, Tally())


@contextlib.contextmanager
def trickling(doors: Doors, connections: int) -> Iterator[dict[str, int]]:
    """A third of them in the head, a third in the body, a third in gRPC's first bytes; how many were cut off."""
    kinds = [
        (doors.http, b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nX: ", b""),
        (doors.http, b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", b""),
        ((doors.http[0], int(doors.grpc.rpartition(":")[2])), PREFACE[:2], PREFACE[2:] + SETTINGS),
    ]
    told, end = {"cut off": 0}, threading.Event()
    with contextlib.ExitStack() as stack:
        links = []
        for number in range(connections):
            address, beginning, rest = kinds[number % 3]
            link = stack.enter_context(socket.create_connection(address))
            link.sendall(beginning)
            links.append((link, chain(rest, repeat(ord("x")))))

        def trickle() -> None:
            alive = selectors.DefaultSelector()
            for link, rest in links:
                alive.register(link, selectors.EVENT_READ, rest)
            while not end.wait(1.0):
                for key, _ in alive.select(0):
                    with contextlib.suppress(OSError):
                        if key.fileobj.recv(65_536):  # type: ignore[union-attr]
                            continue
                    alive.unregister(key.fileobj)
                    told["cut off"] += 1
                for key in list(alive.get_map().values()):
                    with contextlib.suppress(OSError):
                        key.fileobj.send(bytes([next(key.data)]))  # type: ignore[union-attr]

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield told
        finally:
            end.set()
            thread.join()


def trickle_row(name: str, tally: Tally, cut: str) -> list[str]:
    p50, p99 = statistics.median(tally.ms), float(percentile(tally.ms, 99))
    return [name, str(len(tally.ms)), f"{tally.success:.2%}", f"{p50:.1f}", f"{p99:.1f}", cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", default="", help="requests with this in their name; 'trickle' for none")
    args = parser.parse_args()
    console = Console()
    table = Table("sent", "over", "answer", "s", "peak, MB more", "another waited, ms", "a normal one then")
    with served("--models", str(MODELS)) as doors:
        measure(doors, Attack("warm-up", "", post(PREDICT, lambda: (SAMPLE.read_bytes(), {}))))
        for attack in attacks():
            if args.only in attack.name:
                table.add_row(*measure(doors, attack))
        console.print(table)
        alone = normal_clients(doors, args.clients, args.seconds)
        with trickling(doors, args.connections) as told:
            beside = normal_clients(doors, args.clients, args.seconds)
    table = Table(
        f"{args.clients} clients for {args.seconds:g} s", "answers", "success", "p50, ms", "p99, ms", "cut off"
    )
    table.add_row(*trickle_row("alone", alone, ""))
    table.add_row(*trickle_row(f"beside {args.connections} that send a byte a second", beside, str(told["cut off"])))
    console.print(table)
    for failure, count in (alone.failed + beside.failed).items():
        console.print(f"{count} failed: {failure}", markup=False)
    met = "met" if beside.success >= SUCCESS_SHARE else "missed"
    console.print(f"success beside them {beside.success:.2%} (target: at least {SUCCESS_SHARE:.0%}): {met}")


if __name__ == "__main__":
    main()
