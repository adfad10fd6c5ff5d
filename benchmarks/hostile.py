"""What hostile requests cost: the answer, its time, the memory used, and how long another client waits meanwhile.

One server with default limits takes all of them. Each request goes over every protocol that it makes sense for; another
client requests /livez all the while, and after each the server has to answer a normal request. Then hundreds of
connections send one byte a second while normal clients go on.
"""

import argparse
import contextlib
import http.client
import selectors
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

from numpy import percentile
from rich.console import Console
from rich.table import Table

from benchmarks.attacks import INFER, PREDICT, SAMPLE, TIMEOUT, Attack, attacks, post, sentence
from benchmarks.server import MODELS, Endpoints, memory_mb, served

NORMAL = f"{PREDICT}?budget_ms=2000"
"""What a normal client requests, with a budget that a busy machine can keep."""
SUCCESS_SHARE = 0.99
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The first bytes of an HTTP/2 client."""


@contextlib.contextmanager
def livez(endpoints: Endpoints) -> Iterator[list[float]]:
    """Request /livez repeatedly until the block ends; the list has each answer's milliseconds."""
    seen: list[float] = []
    end = threading.Event()

    def watch() -> None:
        link = http.client.HTTPConnection(*endpoints.http, timeout=TIMEOUT)
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


def reset_peak(pid: int) -> None:
    """Let VmHWM start from the present memory, where the kernel allows that."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def measure(endpoints: Endpoints, attack: Attack) -> list[str]:
    """A row of the table."""
    normal = post(NORMAL, lambda: (SAMPLE.read_bytes(), {}))
    reset_peak(endpoints.pid)
    before = memory_mb(endpoints.pid)
    with livez(endpoints) as waits:
        start = time.perf_counter()
        answer = attack.send(endpoints)
        seconds = time.perf_counter() - start
    growth = memory_mb(endpoints.pid, "VmHWM") - before
    after = normal(endpoints).strip()
    shown = answer if len(answer) < 75 else answer[:72] + "..."
    return [attack.name, attack.protocol, shown, f"{seconds:.2f}", f"{growth:.0f}", f"{max(waits):.0f}", after]


@dataclass
class Tally:
    """Answers' milliseconds, and failures by kind."""

    ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.ms + other.ms, self.failed + other.failed)

    @property
    def success(self) -> float:
        return len(self.ms) / max(1, len(self.ms) + self.failed.total())


def normal_client(endpoints: Endpoints, end: float) -> Tally:
    """One request after the other until `end`, on time.monotonic."""
    image, tally = SAMPLE.read_bytes(), Tally()
    link = http.client.HTTPConnection(*endpoints.http, timeout=TIMEOUT)
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


def normal_clients(endpoints: Endpoints, clients: int, seconds: float) -> Tally:
    found: list[Tally] = []
    end = time.monotonic() + seconds

    def run() -> None:
        found.append(normal_client(endpoints, end))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found, Tally())


class SlowConnections:
    """Connections that send one byte a second: a third in the head, a third in the body, a third in gRPC's preface."""

    def __init__(self, endpoints: Endpoints, connections: int) -> None:
        self.closed = 0
        """How many the server has closed."""
        grpc_address = (endpoints.http[0], int(endpoints.grpc.rpartition(":")[2]))
        self._kinds = [
            (endpoints.http, b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nX: ", b""),
            (endpoints.http, b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", b""),
            (grpc_address, PREFACE[:2], PREFACE[2:] + SETTINGS),
        ]
        self._connections = connections
        self._end = threading.Event()

    def __enter__(self) -> "SlowConnections":
        self._open = contextlib.ExitStack()
        self._alive = selectors.DefaultSelector()
        for number in range(self._connections):
            address, beginning, rest = self._kinds[number % 3]
            link = self._open.enter_context(socket.create_connection(address))
            link.sendall(beginning)
            self._alive.register(link, selectors.EVENT_READ, chain(rest, repeat(ord("x"))))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._open.close()

    def _run(self) -> None:
        while not self._end.wait(1.0):
            for key, _ in self._alive.select(0):
                self._drop_if_closed(key)
            for key in list(self._alive.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(bytes([next(key.data)]))  # type: ignore[union-attr]

    def _drop_if_closed(self, key: selectors.SelectorKey) -> None:
        with contextlib.suppress(OSError):
            if key.fileobj.recv(65_536):  # type: ignore[union-attr]
                return
        self._alive.unregister(key.fileobj)
        self.closed += 1


def tally_row(name: str, tally: Tally, closed: str) -> list[str]:
    p50, p99 = statistics.median(tally.ms), float(percentile(tally.ms, 99))
    return [name, str(len(tally.ms)), f"{tally.success:.2%}", f"{p50:.1f}", f"{p99:.1f}", closed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", default="", help="requests with this in their name; 'slow' for none")
    args = parser.parse_args()
    console = Console()
    table = Table("request", "protocol", "answer", "s", "peak, MB more", "/livez waited, ms", "a normal request then")
    with served("--models", str(MODELS)) as endpoints:
        measure(endpoints, Attack("warm-up", "", post(PREDICT, lambda: (SAMPLE.read_bytes(), {}))))
        for attack in attacks():
            if args.only in attack.name:
                table.add_row(*measure(endpoints, attack))
        console.print(table)
        alone = normal_clients(endpoints, args.clients, args.seconds)
        with SlowConnections(endpoints, args.connections) as slow:
            beside = normal_clients(endpoints, args.clients, args.seconds)
    report(console, args, alone, beside, slow.closed)


def report(console: Console, args: argparse.Namespace, alone: Tally, beside: Tally, closed: int) -> None:
    heads: Sequence[str] = (
        f"{args.clients} clients for {args.seconds:g} s",
        "answers",
        "success",
        "p50, ms",
        "p99, ms",
    )
    table = Table(*heads, "slow ones closed")
    table.add_row(*tally_row("alone", alone, ""))
    table.add_row(*tally_row(f"beside {args.connections} that send a byte a second", beside, str(closed)))
    console.print(table)
    for failure, count in (alone.failed + beside.failed).items():
        console.print(f"{count} failed: {failure}", markup=False)
    verdict = "met" if beside.success >= SUCCESS_SHARE else "missed"
    console.print(f"success beside them {beside.success:.2%} (target: at least {SUCCESS_SHARE:.0%}): {verdict}")


if __name__ == "__main__":
    main()
