"""The response cache: what a hit takes, that equal requests at once are one run, its overhead and its memory.

Images are one JPEG with a comment that numbers it, so that each has another digest. Servers with and without the cache
take turns where they are compared, and CPU time is that of the server's process.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS, Endpoints, memory_mb, served
from tta_server.application import Application
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.sharing import AnswerSharing, SharedRequest
from tta_server.settings import Settings

MODEL = "clothing"
PATH = f"/v1/models/{MODEL}/predict?stop=all&min_views=all&budget_ms=10000"
AT_ONCE = 64
CACHE_MB = 20
VIEWS = 8
HIT_SHARE, OVERHEAD = 0.2, 1.01
"""Targets: latency of a hit over that of a run; CPU time of a request without a hit over that without the cache."""
ATTEMPTS = 20
"""Of a request that is refused, or whose run is aborted: both happen when the machine stalls."""
WARM_REQUESTS = 300
numbers = count()


def numbered(image: bytes) -> bytes:
    """The same picture as a file that was not sent before."""
    comment = f"{next(numbers):012d}".encode()
    return image[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + image[2:]


class Client:
    """One connection, one request at a time."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._link = http.client.HTTPConnection(*endpoints.http, timeout=120)

    def _answer(self, method: str, path: str, body: bytes = b"") -> bytes:
        for attempt in range(ATTEMPTS):
            self._link.request(method, path, body)
            reply = self._link.getresponse()
            found = reply.read()
            if reply.status == 200:
                return found
            time.sleep(0.1 * attempt)
        raise SystemExit(f"the server answered {reply.status}: {found[:200]!r}")

    def predict(self, image: bytes, query: str = "") -> bool:
        """Whether the answer was cached."""
        return b'"cached":true' in self._answer("POST", PATH + query, image)

    def counts(self) -> dict[str, int]:
        (found,) = json.loads(self._answer("GET", f"/v2/models/{MODEL}/stats"))["model_stats"]
        stages = {name: int(duration["count"]) for name, duration in found["inference_stats"].items()}
        return {"views": int(found["inference_count"]), **stages}

    def metric(self, name: str) -> float:
        lines = self._answer("GET", "/metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def close(self) -> None:
        self._link.close()


@contextlib.contextmanager
def connected(endpoints: Endpoints) -> Iterator[Client]:
    with contextlib.closing(Client(endpoints)) as client:
        yield client


def milliseconds(client: Client, images: list[bytes], expected: bool) -> float:
    """The median latency; ends the run if an answer was cached and should not be, or the reverse."""
    found = []
    for image in images:
        start = time.perf_counter()
        is_cached = client.predict(image)
        found.append((time.perf_counter() - start) * 1e3)
        if is_cached != expected:
            raise SystemExit(f"an answer was {'' if is_cached else 'not '}cached")
    return statistics.median(found)


def latencies(client: Client, image: bytes) -> tuple[float, float]:
    """Of a run and of a hit, in ms."""
    images = [numbered(image) for _ in range(100)]
    return milliseconds(client, images, expected=False), milliseconds(client, images, expected=True)


def runs_at_once(endpoints: Endpoints, image: bytes) -> dict[str, int]:
    """How the statistics grow by AT_ONCE equal requests."""
    one = numbered(image)

    def predict(_: int) -> bool:
        with connected(endpoints) as client:
            return client.predict(one)

    with connected(endpoints) as client, ThreadPoolExecutor(AT_ONCE) as clients:
        before = client.counts()
        list(clients.map(predict, range(AT_ONCE)))
        after = client.counts()
    return {key: after[key] - before[key] for key in after}


def running_ms(pid: int) -> float:
    """Milliseconds for which a process's threads have run, to the ns; `cpu_seconds` counts in 10 ms."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def cpu_ms(endpoints: Endpoints, image: bytes, requests: int) -> float:
    """CPU time of the server for a request without a hit."""
    images = [numbered(image) for _ in range(requests)]
    with connected(endpoints) as client:
        client.predict(numbered(image))
        before = running_ms(endpoints.pid)
        for each in images:
            client.predict(each)
        return (running_ms(endpoints.pid) - before) / requests


def overheads(image: bytes, rounds: int, requests: int) -> list[float]:
    """CPU time with the cache, without a hit, over that without it: a ratio for each round, in turns."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(served("--cache-mb", size)) for size in ("0", str(CACHE_MB))]
        for endpoints in servers:
            cpu_ms(endpoints, image, requests)
        ratios = []
        for number in range(rounds):
            turns = servers if number % 2 else servers[::-1]
            found = {endpoints.pid: cpu_ms(endpoints, image, requests) for endpoints in turns}
            ratios.append(found[servers[1].pid] / found[servers[0].pid])
    return ratios


class Done:
    """A ticket whose answer was made before."""

    def __init__(self, model: Model, answer: Answer) -> None:
        self.model, self.future = model, Future[Answer]()
        self.future.set_result(answer)

    def partial(self, seen: int) -> None:
        return None

    def cancel(self) -> bool:
        return False


def added_ms(image: bytes, requests: int) -> tuple[float, float]:
    """CPU time in ms that the cache adds to an image without a hit, and that of the image's run, without HTTP."""
    model = load_model(MODELS / MODEL)
    application = Application(Settings(models=MODELS), [model])
    application.warm()
    options = Options(budget_ms=10_000, stop="all", min_views="all")
    try:
        start = time.process_time()
        for _ in range(requests):
            (ticket,) = application.predictor.submit_all(model, [numbered(image)], options, Caller("bench"))
            answer = ticket.future.result()
        run = (time.process_time() - start) / requests * 1e3
        request = SharedRequest(make_plan(model, options), options, Caller("bench"), Deadline.after(10_000))
        sharing = AnswerSharing(
            CACHE_MB * 1_000_000, lambda *_: [Done(model, answer)], application.observer, lambda _: True
        )
        images = [numbered(image) for _ in range(10 * requests)]
        start = time.process_time()
        for each in images:
            sharing.submit(request, [each])
        return (time.process_time() - start) / len(images) * 1e3, run
    finally:
        application.close()


def memory(image: bytes, images: int) -> tuple[float, float, float]:
    """Of that many distinct images: the largest `tta_cache_bytes` in MB, answers dropped, MB by which the process grew.

    The process has answered as many requests before as it takes for its memory to settle, with a cache of 1 MB beside
    it for comparison: what both grow by is not the cache's.
    """
    with served("--cache-mb", "1") as base, served("--cache-mb", str(CACHE_MB)) as endpoints:
        largest, grown = 0.0, []
        for each in (base, endpoints):
            with connected(each) as client:
                for _ in range(WARM_REQUESTS):
                    client.predict(numbered(image), "&max_views=1")
                before = memory_mb(each.pid)
                for number in range(images):
                    client.predict(numbered(image), "&max_views=1")
                    if number % 100 == 0 and each is endpoints:
                        largest = max(largest, client.metric("tta_cache_bytes") / 1e6)
                grown.append(memory_mb(each.pid) - before)
                evicted = client.metric("tta_cache_evictions_total")
    return largest, evicted, grown[1] - grown[0]


Row = tuple[str, str, str, bool]
"""What was measured, the figure, its target, and whether that is met."""


def hits(image: bytes, args: argparse.Namespace) -> list[Row]:
    with served("--cache-mb", str(CACHE_MB), "--no-api-bound") as endpoints:
        with connected(endpoints) as client:
            run, hit = latencies(client, image)
        grown = runs_at_once(endpoints, image)
    figure = ", ".join(f"{grown[key]} {key}" for key in ("success", "cache_miss", "cache_hit", "views"))
    is_one_run = (grown["success"], grown["cache_miss"], grown["views"]) == (AT_ONCE, 1, VIEWS)
    return [
        (
            f"a hit over a run of {VIEWS} views, p50",
            f"{hit:.2f} / {run:.2f} ms",
            f"{HIT_SHARE}",
            hit / run <= HIT_SHARE,
        ),
        (f"{AT_ONCE} equal requests at once", figure, f"1 cache_miss, {VIEWS} views", is_one_run),
    ]


def overhead(image: bytes, args: argparse.Namespace) -> list[Row]:
    ratios = overheads(image, args.rounds, args.requests)
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    figure = f"{median:.4f} ({low:.3f} to {high:.3f}, {len(ratios)} rounds)"
    return [("CPU time without a hit, with over without the cache", figure, f"{OVERHEAD}", median <= OVERHEAD)]


def bounds(image: bytes, args: argparse.Namespace) -> list[Row]:
    largest, evicted, taken = memory(image, args.images)
    what = f"{args.images} images, {evicted:.0f} answers dropped"
    return [
        (f"{what}: largest tta_cache_bytes", f"{largest:.1f} MB", f"{CACHE_MB} MB", largest <= CACHE_MB),
        (f"{what}: resident memory", f"{taken:.1f} MB", f"{CACHE_MB} MB", taken <= CACHE_MB),
    ]


def added(image: bytes, args: argparse.Namespace) -> list[Row]:
    cache, run = added_ms(image, 100)
    share = OVERHEAD - 1
    return [("CPU time that a miss adds to a run", f"{cache:.3f} / {run:.2f} ms", f"{share:.2f}", cache <= share * run)]


PARTS = {"hits": hits, "added": added, "overhead": overhead, "memory": bounds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    parser.add_argument("--rounds", type=int, default=60, help="of the overhead")
    parser.add_argument("--requests", type=int, default=30, help="of a round")
    parser.add_argument("--images", type=int, default=10_000, help="distinct ones, for the memory")
    args = parser.parse_args()
    image = next(Path(MODELS / MODEL).glob("sample.*")).read_bytes()
    table, is_met = Table(title="Response cache"), True
    for column in ("what", "figure", "target"):
        table.add_column(column)
    for part in args.parts or PARTS:
        for what, figure, target, met in PARTS[part](image, args):
            table.add_row(what, figure, target if met else f"{target}: missed")
            is_met &= met
    Console().print(table)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
