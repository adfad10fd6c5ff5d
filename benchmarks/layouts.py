"""Whether requests with many views of many tiles delay other clients or fill the memory.

The server has a segmentation model that processes large images in tiles. In each round 40 clients request a quote or a
prediction at once, each with another policy and image size, while one more client requests /livez repeatedly. Prints
how long /livez took and how much memory the process gained; exits with 1 where a target is missed.
"""

import argparse
import http.client
import io
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.server import Endpoints, memory_mb, served

CLIENTS = 40
LATE_MS, GROWTH_MB = 300.0, 100.0
"""Targets: the longest wait for /livez, and the growth of the process since before the first round."""
EVERY = 0.01
"""Seconds between two requests for /livez."""
CONFIG = """\
task: segmentation
labels: [red, green, blue]
input: {size: free, multiple: 8, max_size: 1024}
output: {kind: probabilities}
limits: {rotate: 45, zoom: 3}
budget: {default_ms: 60000, max_ms: 600000}
"""

Ask = Callable[[httpx.Client, int], httpx.Request]
"""Builds the request of the client with that number."""


def write_model(folder: Path) -> None:
    """A model that returns the image itself: red, green and blue are the scores of three classes."""
    shape: list[int | str] = ["n", 3, "h", "w"]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "maps")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["maps"])], "tiled", kinds[:1], kinds[1:])
    (folder / "tiled" / "1").mkdir(parents=True)
    (folder / "tiled" / "tta.yaml").write_text(CONFIG)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "tiled" / "1" / "model.onnx")


def rotations(views: int, number: int) -> str:
    """A JSON policy, another for each number."""
    return json.dumps(["identity", *({"rotate": round(0.1 * i + number / 1000, 3)} for i in range(1, views))])


def scales(views: int, number: int) -> str:
    """A JSON policy in which each view has a canvas of its own size."""
    return json.dumps(["identity", *({"scale": round(1 + 0.004 * i + number / 1e5, 5)} for i in range(1, views))])


def quote(policy: Callable[[int, int], str], views: int, side: int) -> Ask:
    def ask(client: httpx.Client, number: int) -> httpx.Request:
        parameters = {"width": side, "height": side - number, "policy": policy(views, number)}
        return client.build_request("GET", "/v1/models/tiled/quote", params=parameters)

    return ask


def predict(policy: Callable[[int, int], str], views: int, side: int) -> Ask:
    def ask(client: httpx.Client, number: int) -> httpx.Request:
        parameters = {"policy": policy(views, number), "budget_ms": "5000"}
        path, content = "/v1/models/tiled/predict", photo(side, side - number)
        return client.build_request("POST", path, params=parameters, content=content)

    return ask


def photo(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(out, "JPEG")
    return out.getvalue()


ROUNDS: dict[str, Ask] = {
    "quotes: 250 rotations at 4000x4000": quote(rotations, 250, 4000),
    "quotes: 50 rotations at 4000x4000": quote(rotations, 50, 4000),
    "quotes: 200 scales at 1500x1500": quote(scales, 200, 1500),
    "quotes: 250 rotations at 1000x1000, whole": quote(rotations, 250, 1000),
    "predictions: 250 rotations at 4000x4000": predict(rotations, 250, 4000),
    "predictions: 200 scales at 1200x1200": predict(scales, 200, 1200),
}


class Watch:
    """Requests /livez from a process of its own until it is stopped; `waits` then has each answer's milliseconds."""

    def __init__(self, url: str) -> None:
        self.waits: list[float] = []
        self._url = url

    def __enter__(self) -> "Watch":
        command = [sys.executable, __file__, "--watch", self._url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # wait until it has begun
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate()  # the end of its input stops it
        self.waits = [float(wait) for wait in output.split()]


def watch(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    waits: list[float] = []
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    print("begun", flush=True)
    while not stopped.wait(EVERY):
        start = time.perf_counter()
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        waits.append((time.perf_counter() - start) * 1e3)
    print(*waits)


def run(url: str, ask: Ask) -> tuple[list[float], float, Counter[int]]:
    """Returns the waits for /livez in ms, the seconds until the last answer, and the answers by status."""
    context = ssl.create_default_context()
    ready = [httpx.Client(base_url=url, timeout=120, verify=context) for _ in range(CLIENTS)]
    asked = [ask(client, number) for number, client in enumerate(ready)]
    with ThreadPoolExecutor(CLIENTS) as threads, Watch(url) as watched:
        start = time.perf_counter()
        statuses = Counter(threads.map(lambda client, request: client.send(request).status_code, ready, asked))
        seconds = time.perf_counter() - start
    for client in ready:
        client.close()
    return watched.waits, seconds, statuses


def measure(endpoints: Endpoints, only: str, table: Table) -> bool:
    """Add a row for each round whose name holds `only`; returns whether all targets are met."""
    for _ in range(20):
        httpx.get(f"{endpoints.url}/livez")
    before, all_met = memory_mb(endpoints.pid), True
    for name, ask in ROUNDS.items():
        if only not in name:
            continue
        waits, seconds, statuses = run(endpoints.url, ask)
        late, grown = max(waits), memory_mb(endpoints.pid) - before
        met = late <= LATE_MS and (grown <= GROWTH_MB or name.startswith("predictions"))
        all_met &= met
        answers = ", ".join(f"{number} of {status}" for status, number in sorted(statuses.items()))
        figures = (f"{seconds:.2f}", f"{np.median(waits):.1f}", f"{late:.1f}", f"{grown:.1f}")
        table.add_row(name, answers, *figures, style="" if met else "red")
    return all_met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rounds whose names hold this text")
    parser.add_argument("--watch", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.watch)
        return
    table = Table("round", "answers", "all in s", "livez p50 ms", "livez max ms", "grown by MB")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        with served("--models", folder) as endpoints:
            met = measure(endpoints, arguments.only, table)
    Console(width=140).print(table)
    print(f"targets: /livez within {LATE_MS:g} ms; after quotes the process has grown by at most {GROWTH_MB:g} MB")
    sys.exit(not met)


if __name__ == "__main__":
    main()
