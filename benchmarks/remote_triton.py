"""What clients see while a real Triton behind the server is stopped (SIGSTOP), killed (SIGKILL) and started again.

Needs `make triton`. Clients send one request after the other. Reports for each fault the answers by status, how long
after its deadline the latest answer came, and the seconds until the model was listed as not ready and, from when Triton
is there again, until it answered. Then what a batch costs in Triton against the same file here, with views made here
and by an exported ensemble there, and how far the ensemble's answers are off with 24 requests in flight.

Exits with 1 if a target is missed.
"""

import argparse
import signal
import statistics
import sys
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

import tta_server
from tests.support.ensembles import export
from tests.support.graphed import with_graphs
from tests.support.real_triton import RealTriton
from tests.support.references import MODELS
from tests.support.remote import remote_folder
from tests.support.serving import Server, until
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.ensemble_requests import Item, make_request
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import ImageViews, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan

IMAGE = (MODELS / "clothing" / "sample.jpg").read_bytes()
SHIFTS = ", ".join(f'{{"shift": [{x}, {y}]}}' for x, y in ((4, 0), (0, 4), (-4, 0)))
POLICY = f'["identity", "hflip", {SHIFTS}, {{"rotate": 5}}, {{"zoom": 1.1}}, ["hflip", {{"rotate": -5}}]]'
STATUSES = ("200", "429", "502", "503", "504")
LATE_MS, BACK_S, EQUAL = 100, 10, 1e-6
"""Targets: an answer after its deadline, until the model answers again, of probabilities."""
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


@dataclass(frozen=True)
class Found:
    """What clients saw of a fault; `lost` and `back` in seconds."""

    kind: str
    traffic: Traffic
    lost: float
    back: float

    @property
    def is_met(self) -> bool:
        on_time = self.traffic.latest <= LATE_MS and self.back <= BACK_S
        return on_time and self.traffic.statuses.keys() <= set(STATUSES)

    def shown(self) -> list[str]:
        counts = ", ".join(f"{number} x {status}" for status, number in sorted(self.traffic.statuses.items()))
        return [self.kind, counts, f"{self.traffic.latest:.0f}", f"{self.lost:.1f}", f"{self.back:.1f}"]


def measure(kind: str, options: argparse.Namespace, folder: Path) -> Found:
    with RealTriton(folder / "triton").add("clothing") as triton:
        if kind != "absent at start":
            triton.start()
        remote_folder(folder / "models" / "clothing", MODELS / "clothing", triton.url)
        (folder / "models" / "cifar10").symlink_to(MODELS / "cifar10")
        with Server("--port", "0", "--workers", "1", "--models", str(folder / "models")) as server:
            traffic = Traffic(server.url, options.clients, options.budget_ms)
            lost, back = traffic.during(lambda: fault(triton, server, kind, options.gone))
    return Found(kind, traffic, lost, back)


def batch_costs(folder: Path) -> Table:
    """Median milliseconds of a batch, in turns; and what is sent for it."""
    columns = ("views in a batch", "all here", "model there", "views there too", "bytes of views", "of canvases")
    table = Table(*columns, title="A batch of clothing, ms", title_justify="left")
    with RealTriton(folder / "triton") as triton:
        export(MODELS / "clothing", triton.repository)
        triton.start()
        models = [
            load_model(MODELS / "clothing"),
            load_model(remote_folder(folder / "views" / "clothing", MODELS / "clothing", triton.url)),
            load_model(ensemble_folder(folder, "clothing", triton.url)),
        ]
        for rows in (1, 8):
            jobs = [decoded(model) for model in models]
            times: list[list[float]] = [[] for _ in models]
            for _ in range(50):
                for job, found in zip(jobs, times, strict=True):
                    start = time.perf_counter()
                    ModelExecutor().run([(job, entry) for entry in range(rows)])
                    found.append((time.perf_counter() - start) * 1e3)
            medians = (f"{statistics.median(found):.2f}" for found in times)
            table.add_row(str(rows), *medians, *(f"{number:,}" for number in sizes(jobs[0], rows)))
        for model in models[1:]:
            model.backend.close()
    return table


def ensemble_folder(folder: Path, name: str, url: str) -> Path:
    return remote_folder(folder / "ensemble" / name, MODELS / name, url, model=f"{name}_tta", views="graph", permits=8)


def decoded(model: Model) -> ImageViews:
    """Eight views of the sample, decoded."""
    plan = make_plan(model, Options(policy=POLICY, stop="all", min_views="all"))
    source = read_source(IMAGE, Limits())
    views = ImageViews(plan, make_layout(plan, source.size), source.size)
    views.decode(source)
    return views


def sizes(views: ImageViews, rows: int) -> tuple[int, int]:
    """Return the bytes of this many views in the model's type, and of the ensemble's inputs that make them."""
    canvases = [views.canvas(entry) for entry in range(rows)]
    items = [Item(views, entry, canvas) for entry, canvas in enumerate(canvases) if canvas is not None]
    request = make_request(items, views.plan.sums)
    local = views.model.preprocessing.empty(rows, views.input_size(0)).nbytes
    return local, sum(values.nbytes for values in request.inputs.values())


def largest_difference(folder: Path) -> float:
    """Of probabilities from the ensemble, 24 requests in flight, and from the graphs here."""
    options = {"stop": "all", "min_views": "all", "budget_ms": 60_000, "include": "probabilities"}
    ways = [{**options, "policy": policy} for policy in ("plain", "hflip", "ten_crop", POLICY)]
    with RealTriton(folder / "triton") as triton:
        export(MODELS / "clothing", triton.repository)
        triton.start()
        with tta_server.load(with_graphs(folder / "graph", MODELS / "clothing"), 1) as graph:
            expected = [graph.predict(IMAGE, **way).prediction["probabilities"] for way in ways]
        with (
            tta_server.load(ensemble_folder(folder, "clothing", triton.url)) as remote,
            ThreadPoolExecutor(24) as clients,
        ):
            found = clients.map(lambda n: remote.predict(IMAGE, **ways[n % 4]).prediction["probabilities"], range(96))
            return max(float(np.abs(np.subtract(each, expected[n % 4])).max()) for n, each in enumerate(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--budget-ms", type=float, default=1000)
    parser.add_argument("--gone", type=float, default=5, help="seconds for which Triton stays away")
    options = parser.parse_args()
    columns = (
        "Triton",
        "answers",
        "latest after its deadline, ms",
        "not ready after s",
        "answers again after s",
        "met",
    )
    title = (
        f"{options.clients} clients, {options.budget_ms:g} ms; targets: {', '.join(STATUSES)}, {LATE_MS} ms, {BACK_S} s"
    )
    table = Table(*columns, title=title, title_justify="left")
    console, met = Console(width=140), True
    for kind in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(kind, options, Path(folder))
        met &= found.is_met
        table.add_row(*found.shown(), "yes" if found.is_met else "[red]missed")
    console.print(table)
    with tempfile.TemporaryDirectory() as folder:
        console.print(batch_costs(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        off = largest_difference(Path(folder))
    console.print(f"24 requests in flight, largest difference of a probability: {off:.1e}; target {EQUAL:g}")
    sys.exit(not met or off > EQUAL)


if __name__ == "__main__":
    main()
