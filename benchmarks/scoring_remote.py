"""Scoring with a server on the same machine, against local scoring, and beside an interactive client."""

import http.client
import json
import operator
import statistics
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

from benchmarks.scoring import CLOSE, command, distance
from benchmarks.scoring_odd import rows_of
from benchmarks.server import MODELS, Endpoints, served

MODEL, BUDGET_MS = "clothing", 2000
SHARE = 0.8
"""Least rate with a server, as a share of a local run's: HTTP and JSON take the rest."""
KEPT = 0.99
"""Least share of the interactive client's answers within their budget."""
QUIET_SECONDS = 10.0


def check_remote(data: Path, folder: Path, count: int, rounds: int) -> bool:
    images = sorted((data / MODEL / "test").glob("*/*.jpg")) or [MODELS / MODEL / "sample.jpg"]
    listed = folder / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in images[:count]))
    local, remote = [], []
    with served("--models", str(MODELS)) as endpoints:
        for number in range(rounds):
            remote.append(rate(listed, folder / f"remote{number}", "--url", endpoints.url))
            local.append(rate(listed, folder / f"local{number}", "--models", str(MODELS), "--batch", "8"))
        is_fast = check_rates(local, remote)
        is_equal = check_rows(folder / "remote0", folder / "local0", "local")
        is_equal &= rounds == 1 or check_rows(folder / "remote0", folder / "remote1", "another run with --url")
        return beside_a_client(endpoints, listed, folder) and is_fast and is_equal


def check_rates(local: list[float], remote: list[float]) -> bool:
    ratios = [ours / theirs for ours, theirs in zip(remote, local, strict=True)]
    ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(
        f"--url: {statistics.median(remote):.1f} images/s, local {statistics.median(local):.1f}; ratio "
        f"{ratio:.2f} ({spread}; target {SHARE})"
    )
    return ratio >= SHARE


def rate(listed: Path, out: Path, *more: str) -> float:
    """Images a second of the command's own line, without loading and measuring."""
    options = ("--model", MODEL, "--stop", "all", "--format", "jsonl", "--out", out, *more)
    done = subprocess.run(command(listed, *options), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stderr.splitlines() if line.startswith("rate"))
    return float(line.split()[1])


def check_rows(one: Path, other: Path, name: str) -> bool:
    first, second = rows_of(one), rows_of(other)
    equal, largest = sum(map(operator.eq, first, second)), distance(first, second)
    print(
        f"rows of {name}: {equal} of {len(first)} equal to the bit, largest difference {largest:.2g} (target {CLOSE:g})"
    )
    return largest <= CLOSE


# ---- beside an interactive client ----


class InteractiveClient:
    """Asks for one image after the other, as interactive requests do; `seconds` of each answer, and the refused."""

    def __init__(self, endpoints: Endpoints, image: bytes) -> None:
        self._endpoints, self._image = endpoints, image
        self.seconds: list[float] = []
        self.refused = self.late = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "InteractiveClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        path = f"/v1/models/{MODEL}/predict?budget_ms={BUDGET_MS}"
        with closing(http.client.HTTPConnection(*self._endpoints.http)) as connection:
            while not self._ended.wait(0.05):
                start = time.perf_counter()
                connection.request("POST", path, self._image)
                response = connection.getresponse()
                body = json.loads(response.read())
                if response.status != 200:
                    self.refused += 1
                    continue
                self.seconds.append(time.perf_counter() - start)
                self.late += body["receipt"]["elapsed_ms"] > BUDGET_MS

    @property
    def kept(self) -> float:
        return 1 - (self.refused + self.late) / max(1, len(self.seconds) + self.refused)

    def line(self, name: str) -> str:
        ordered = sorted(self.seconds)
        p50, p95 = (ordered[int(len(ordered) * share)] * 1e3 for share in (0.5, 0.95))
        return f"{name}: p50 {p50:.0f} ms, p95 {p95:.0f} ms, {len(ordered)} answers, {self.refused} refused"


def beside_a_client(endpoints: Endpoints, listed: Path, folder: Path) -> bool:
    image = (MODELS / MODEL / "sample.jpg").read_bytes()
    with InteractiveClient(endpoints, image) as quiet:
        time.sleep(QUIET_SECONDS)
    with InteractiveClient(endpoints, image) as beside:
        found = rate(listed, folder / "beside", "--url", endpoints.url)
    print(quiet.line("interactive client alone"))
    print(beside.line(f"beside score --url at {found:.1f} images/s"))
    print(f"answers within {BUDGET_MS} ms: {beside.kept:.3f} (target {KEPT})")
    return beside.kept >= KEPT
