"""What a request of eight views costs beside the model: served, over the bare model and over a loop, and peers.

Bare is gateway.py's loop of the model alone; the loop also decodes and resizes an image (floor.py's `decode`). All take
turns, round by round; ratios are medians over the rounds, with the smallest and the largest. `--peers` is a folder with
a FastAPI app `fastapi_app.py` and a LitServe app `litserve_app.py` that serve clothing; each takes turns with a server
that runs the same eight views. LitServe is left out where it is not installed. Exits with 1 if a target is missed.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
from rich.console import Console
from rich.table import Table

from benchmarks.floor import handlers, views_per_second
from benchmarks.gateway import VIEWS, Bare, Case, cases, load
from benchmarks.server import DATA, MODELS, cpu_seconds, served
from tta_server.repository.loader import load_model

OVER_BARE = {"clothing": 0.80, "bloodcells": 0.82, "mouse": 0.68, "nuclei": 0.95}
OVER_LOOP = {"clothing": 0.88, "bloodcells": 0.86, "mouse": 0.80, "nuclei": 0.96}
OVER_FASTAPI, WANTED = 1.00, 1.05
SCALES = (1.0, 160 / 146, 174 / 146, 190 / 146)
"""Of the peers' views: each resizes the short side to 146, 160, 174 or 190 pixels, and each is mirrored too."""
FLIPPED_SCALES = [steps for scale in SCALES for steps in ([{"scale": scale}], [{"scale": scale}, "hflip"])]
CONNECTIONS = 8
START_SECONDS = 60


class Found:
    """Figures of several servers or loops, by name, a round at a time."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}

    def add(self, name: str, rate: float) -> None:
        self.rates.setdefault(name, []).append(rate)

    def ratio(self, name: str, base: str) -> tuple[float, str]:
        """The median over the rounds, and it as text with the smallest and the largest."""
        ratios = sorted(one / other for one, other in zip(self.rates[name], self.rates[base], strict=True))
        middle = statistics.median(ratios)
        return middle, f"{middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def over_model(case: Case, models: Path, rounds: int, seconds: float) -> Found:
    """Views per second: bare, the loop, and served."""
    found, bare, model = Found(), Bare(models, case), load_model(models / case.model)
    loop = handlers(model, case)["decode"]
    images = [path.read_bytes() for path in case.images]
    query = f"stop=all&min_views=all&max_views={VIEWS}&budget_ms=10000"
    query += f"&policy={quote(case.policy)}" if case.policy else ""
    with served("--models", str(models)) as endpoints:
        port = endpoints.http[1]
        load(port, case, query, VIEWS, CONNECTIONS, 1.5)
        for _ in range(rounds):
            found.add("bare", bare.views_per_second(seconds))
            found.add("loop", views_per_second(loop, images, seconds))
            answer = load(port, case, query, VIEWS, CONNECTIONS, seconds)
            found.add("served", answer["views"] / answer["seconds"])  # type: ignore[operator]
    model.backend.close()
    return found


# ---- peers ----


@contextmanager
def peer(folder: Path, name: str, model: Path) -> Iterator[tuple[int, int]]:
    """Start a peer, wait until it answers, and give its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = {
        "FastAPI": ["-m", "uvicorn", "fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)],
        "LitServe": ["litserve_app.py"],
    }[name]
    env = {**os.environ, "MODEL": str(model.resolve()), "PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    silent = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=env, stdout=silent, stderr=silent, start_new_session=True
    )
    try:
        _wait_for(port, process)
        yield port, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(START_SECONDS)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as link:
            if link.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the peer did not start")


def peer_answers(port: int, case: Case, name: str, seconds: float) -> dict[str, float]:
    """As `gateway.load`, of a peer."""
    command = [sys.executable, str(Path(__file__).with_name("client.py")), "--port", str(port), "--path", "/predict"]
    command += ["--connections", str(CONNECTIONS), "--seconds", str(seconds)]
    command += ["--form", "image"] if name == "LitServe" else []
    done = subprocess.run([*command, *map(str, case.images)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def over_peers(case: Case, folder: Path, models: Path, rounds: int, seconds: float) -> Found:
    """Answers per second of ours and of each peer, with the peers' views."""
    found = Found()
    names = ["FastAPI", *(["LitServe"] if find_spec("litserve") else [])]
    query = f"stop=all&min_views=all&budget_ms=10000&policy={quote(json.dumps(FLIPPED_SCALES))}"
    with ExitStack() as stack:
        server = stack.enter_context(served("--models", str(models)))
        asked: dict[str, tuple[int, Callable[[float], Any]]] = {
            "ours": (server.pid, lambda time: load(server.http[1], case, query, VIEWS, CONNECTIONS, time))
        }
        for name in names:
            port, pid = stack.enter_context(peer(folder, name, models / case.model / "1" / "model.onnx"))
            asked[name] = pid, partial(peer_answers, port, case, name)
        for _, ask in asked.values():
            ask(1.5)
        for _ in range(rounds):
            for name, (pid, ask) in asked.items():
                before = cpu_seconds(pid)
                found.add(name, (answer := ask(seconds))["answers"] / answer["seconds"])
                found.add(f"{name}, core-ms", (cpu_seconds(pid) - before) / answer["answers"] * 1e3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--peers", type=Path, default=DATA.parent / "peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", choices=[*OVER_BARE, "peers"], help="which model, or the peers alone")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    known = {case.model: case for case in cases(args.data)}
    table = Table("served", "bare, views/s", "over bare", "target", "over the loop", "target")
    holds = True
    for name, target in OVER_BARE.items():
        if args.only in (None, name):
            found = over_model(known[name], args.models, args.rounds, args.seconds)
            bare, shown_bare = found.ratio("served", "bare")
            loop, shown_loop = found.ratio("served", "loop")
            rate = f"{statistics.median(found.rates['bare']):.0f}"
            table.add_row(name, rate, shown_bare, f"{target:.2f}", shown_loop, f"{OVER_LOOP[name]:.2f}")
            holds &= bare >= target and loop >= OVER_LOOP[name]
    Console(width=110).print(table)
    if args.only not in (None, "peers"):
        return 0 if holds else 1
    if not args.peers.is_dir():
        print(f"efficiency: there is no folder {args.peers} of peers (--peers)")
        return 0 if holds else 1
    return 0 if _report_peers(args.peers, known["clothing"], args) and holds else 1


def _report_peers(folder: Path, case: Case, args: argparse.Namespace) -> bool:
    found = over_peers(case, folder, args.models, args.rounds, args.seconds)
    table = Table("clothing, eight views", "answers/s", "core-ms an answer", "ours over it", "target")
    for name in ("ours", "FastAPI", "LitServe"):
        if name in found.rates:
            ratio = found.ratio("ours", name)[1] if name != "ours" else ""
            target = f"{OVER_FASTAPI:.2f}, wanted {WANTED:.2f}" if name == "FastAPI" else ""
            core_ms = statistics.median(found.rates[f"{name}, core-ms"])
            shown = "" if name == "LitServe" else f"{core_ms:.1f}"  # it has several processes
            table.add_row(name, f"{statistics.median(found.rates[name]):.1f}", shown, ratio, target)
    Console(width=110).print(table)
    return found.ratio("ours", "FastAPI")[0] >= OVER_FASTAPI


if __name__ == "__main__":
    sys.exit(main())
