"""A closed-loop HTTP client: every connection sends its next image when it has the answer to the last.

Prints one line of JSON: answers, views, seconds, latencies in ms. Checks that every receipt holds the requested views.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop


@dataclass
class Tally:
    answers: list[bytes] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """Keeps one request in flight until `end`; answers are stored whole and checked afterwards."""

    def __init__(self, requests: list[bytes], offset: int, end: float, tally: Tally) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests, self._number, self._end, self._tally = requests, offset, end, tally
        self._got = bytearray()
        self._expected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._start = time.perf_counter()
        self._transport.write(self._requests[self._number % len(self._requests)])  # type: ignore[attr-defined]
        self._number += 1

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._expected and (head := self._got.find(b"\r\n\r\n")) >= 0:
            start = self._got.lower().index(b"content-length:") + 15
            self._expected = head + 4 + int(self._got[start : self._got.index(b"\r", start)])
        if self._expected and len(self._got) >= self._expected:
            self._answered()

    def _answered(self) -> None:
        now = time.perf_counter()
        self._tally.latencies_ms.append((now - self._start) * 1e3)
        self._tally.answers.append(bytes(self._got))
        self._got, self._expected = bytearray(), 0
        if now < self._end:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(SystemExit(f"the server closed the connection: {error}"))


async def connection(port: int, requests: list[bytes], offset: int, end: float, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Connection(requests, offset, end, tally), "127.0.0.1", port)
    await protocol.done


def check(answer: bytes, views: int | None) -> float:
    """Returns the receipt's elapsed_ms; ends the run unless the receipt holds that many views.

    Without a number, the answer of another server: 0.
    """
    head, body = answer.split(b"\r\n\r\n", 1)
    if b" 200 " not in head[:16]:
        raise SystemExit(f"the server answered {body.decode()}")
    if views is None:
        return 0.0
    receipt = json.loads(body)["receipt"]
    if len(receipt["views"]) != views:
        raise SystemExit(f"asked for {views} views, the receipt holds {len(receipt['views'])}")
    return float(receipt["elapsed_ms"])


def request(path: str, image: bytes, form: str = "") -> bytes:
    """Of an image as the body, or as a file in this field of a form."""
    kind = []
    if form:
        head = f'--part\r\nContent-Disposition: form-data; name="{form}"; filename="image"\r\n\r\n'
        image = head.encode() + image + b"\r\n--part--\r\n"
        kind = ["Content-Type: multipart/form-data; boundary=part"]
    lines = (f"POST {path} HTTP/1.1", "Host: bench", *kind, f"Content-Length: {len(image)}", "", "")
    return "\r\n".join(lines).encode() + image


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True, help="the request's path and query")
    parser.add_argument("--views", type=int, help="that every receipt must hold; none for another server")
    parser.add_argument("--form", default="", help="send images in this field of a form")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("images", nargs="+", type=Path)
    args = parser.parse_args()
    requests = [request(args.path, image.read_bytes(), args.form) for image in args.images]
    tally, start = Tally(), time.perf_counter()
    end = start + args.seconds
    await asyncio.gather(*(connection(args.port, requests, i * 7, end, tally) for i in range(args.connections)))
    seconds = time.perf_counter() - start
    elapsed = [check(answer, args.views) for answer in tally.answers]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "answers": len(elapsed),
                "views": len(elapsed) * (args.views or 0),
                "latencies_ms": tally.latencies_ms,
                "elapsed_ms": elapsed,
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main())
