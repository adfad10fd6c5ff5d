"""What clients see while a real Triton behind the server is stopped (SIGSTOP), killed (SIGKILL) and started again.

Needs `make triton`. Clients send one request after the other. Reports for each fault the answers by status, how long
after its deadline the latest answer came, and the seconds until the model was listed as not ready and, from when Triton
is there again, until it answered. Then what a batch costs in Triton against the same file here.
"""

import argparse
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.support.real_triton import RealTriton
from tests.support.references import MODELS
from tests.support.remote import remote_folder
from tests.support.serving import Server, until
from tta_server.backends import Backend
from tta_server.repository.loader import load_model

IMAGE = (MODELS / "clothing" / "sample.jpg").read_bytes()
FAULTS = ("stopped", "killed", "absent at start")


@dataclass
class Traffic:
    """Requests of `clients` clients, each with `budget_ms`, while `run` runs."""

    url: str
    clients: int
    budget_ms: float
    statuses: Counter[str] = field(default_factory=Counter)
    latest: float = 0.0
    """Milliseconds after its deadline at which the latest answer came to its client."""

    def __post_init__(self) -> None:
        self._ends = threading.Event()

    def ask(self, client: httpx.Client) -> int:
        start = time.monotonic()
        try:
            answer = client.post(
                "/v1/models/clothing/predict", content=IMAGE, params={"budget_ms": self.budget_ms}, timeout=60
            )
            status = str(answer.status_code)
        except httpx.HTTPError:
            status = "none"
        self.latest = max(self.latest, (time.monotonic() - start) * 1e3 - self.budget_ms)
        self.statuses[status] += 1
        return answer.status_code if status != "none" else 0

    def _run(self) -> None:
        with httpx.Client(base_url=self.url) as client:
            while not self._ends.is_set():
                if self.ask(client) == 503:
                    time.sleep(0.02)

    def during(self, action: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        with ThreadPoolExecutor(self.clients) as pool:
            for _ in range(self.clients):
                pool.submit(self._run)
            time.sleep(2)
            try:
                found = action()
                time.sleep(2)
                return found
            finally:
                self._ends.set()


def seconds_until(condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    until(condition)
    return time.monotonic() - start


def fault(triton: RealTriton, server: Server, kind: str, gone: float) -> tuple[float, float]:
    """Seconds until the model is not ready, and until it answers once Triton is there again."""
    with server.client() as client:

        def is_ready() -> bool:
            return client.get("/v1/models/clothing").json()["state"] == "ready"

        lost = 0.0
        if kind == "stopped":
            triton.send_signal(signal.SIGSTOP)
        elif kind == "killed":
            triton.kill()
        if kind != "absent at start":
            lost = seconds_until(lambda: not is_ready())
        time.sleep(gone)
        if kind == "stopped":
            triton.send_signal(signal.SIGCONT)
        else:
            triton.start()
        return lost, seconds_until(is_ready)


def measure(kind: str, options: argparse.Namespace, folder: Path) -> list[str]:
    with RealTriton(folder / "triton").add("clothing") as triton:
        if kind != "absent at start":
            triton.start()
        remote_folder(folder / "models" / "clothing", MODELS / "clothing", triton.url)
        (folder / "models" / "cifar10").symlink_to(MODELS / "cifar10")
        with Server("--port", "0", "--workers", "1", "--models", str(folder / "models")) as server:
            traffic = Traffic(server.url, options.clients, options.budget_ms)
            lost, back = traffic.during(lambda: fault(triton, server, kind, options.gone))
    counts = ", ".join(f"{number} x {status}" for status, number in sorted(traffic.statuses.items()))
    return [kind, counts, f"{traffic.latest:.0f}", f"{lost:.1f}", f"{back:.1f}"]


def batch_costs(folder: Path) -> Table:
    """Median milliseconds of a batch, in turns."""
    table = Table("views in a batch", "here ms", "in Triton ms", title="A batch of clothing", title_justify="left")
    with RealTriton(folder / "triton").add("clothing") as triton:
        triton.start()
        here = load_model(MODELS / "clothing").backend
        there = load_model(remote_folder(folder / "clothing", MODELS / "clothing", triton.url)).backend
        for rows in (1, 8):
            batch = np.random.default_rng(0).random((rows, 3, 128, 128), np.float32)
            times: dict[Backend, list[float]] = {here: [], there: []}
            for _ in range(50):
                for backend, found in times.items():
                    start = time.perf_counter()
                    backend.infer(batch)
                    found.append((time.perf_counter() - start) * 1e3)
            table.add_row(str(rows), *(f"{statistics.median(found):.2f}" for found in times.values()))
        there.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--budget-ms", type=float, default=1000)
    parser.add_argument("--gone", type=float, default=5, help="seconds for which Triton stays away")
    options = parser.parse_args()
    columns = ("Triton", "answers", "latest after its deadline, ms", "not ready after s", "answers again after s")
    table = Table(*columns, title=f"{options.clients} clients, {options.budget_ms:g} ms", title_justify="left")
    console = Console(width=140)
    for kind in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(*measure(kind, options, Path(folder)))
    console.print(table)
    with tempfile.TemporaryDirectory() as folder:
        console.print(batch_costs(Path(folder)))


if __name__ == "__main__":
    main()
