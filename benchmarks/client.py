"""A closed-loop HTTP client in a process of its own: every connection sends its next image when an answer has come.

Prints one JSON line: answers, views, seconds, latencies in ms. Checks every receipt to hold the views asked for.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tally:
    answers: int = 0
    views: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    elapsed_ms: list[float] = field(default_factory=list)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    body = await reader.readexactly(length)
    if b" 200 " not in head[:16]:
        raise SystemExit(f"the server answered {body.decode()}")
    return body


async def connection(port: int, requests: list[bytes], offset: int, end: float, views: int, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    number = offset
    while (start := time.perf_counter()) < end:
        body = await ask(reader, writer, requests[number % len(requests)])
        tally.latencies_ms.append((time.perf_counter() - start) * 1e3)
        receipt = json.loads(body)["receipt"]
        if len(receipt["views"]) != views:
            raise SystemExit(f"asked for {views} views, the receipt holds {len(receipt['views'])}")
        tally.answers += 1
        tally.views += views
        tally.elapsed_ms.append(receipt["elapsed_ms"])
        number += 1
    writer.close()


def request(path: str, image: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(image)}\r\n\r\n"
    return head.encode() + image


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True, help="the request's path and query")
    parser.add_argument("--views", type=int, required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("images", nargs="+", type=Path)
    args = parser.parse_args()
    requests = [request(args.path, image.read_bytes()) for image in args.images]
    tally, start = Tally(), time.perf_counter()
    end = start + args.seconds
    await asyncio.gather(
        *(connection(args.port, requests, i * 7, end, args.views, tally) for i in range(args.connections))
    )
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, **tally.__dict__}))


if __name__ == "__main__":
    asyncio.run(main())
