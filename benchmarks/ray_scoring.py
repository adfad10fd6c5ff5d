"""Scoring on a Ray cluster of two nodes on this machine: kills, rate. Each exits with 1 where its target is missed.

    python benchmarks/ray_scoring.py kills [--commands 10] [--actors 10] [--nodes 3] [--images 5000]
    python benchmarks/ray_scoring.py rate [--rounds 3] [--images 14336] [--model clothing]
    python benchmarks/ray_scoring.py threads [--rounds 3] [--images 2000] [--model clothing]
    python benchmarks/ray_scoring.py data

`kills` kills (-9) the command, an actor, or a node with its actors at random instants, and compares what is left at the
end with an uninterrupted run without Ray, to the byte. `rate` runs the same images without Ray (a process a
core) and with it (an actor a core), in turns. `threads` runs an actor with a thread a core in turns with actors of one
thread.
`data` shows why Ray Data is not used: what its `map_batches` has run when its reader stops, and how often it runs a
batch that ends its actor.
Ray listens on all addresses, so that all of it runs in a network namespace of its own.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gateway import cases
from benchmarks.scoring import command, content_of, tiny_images
from benchmarks.server import DATA, MODELS
from tests.support.clusters import UNSHARE, TwoNodes, kill, ray_environment, why_not
from tta_server.serving.cores import available_cores

RATE = 0.9
"""Least rate of Ray, as a share of that without."""
MOST_SECONDS = 20
"""Between two kills."""
INSIDE = "IN_NETWORK_NAMESPACE"
"""Variable that is set there."""


class Runs:
    """Runs of the command on a cluster, one after the other, each compared with the run without Ray at its end."""

    def __init__(self, nodes: TwoNodes, photos: Path, folder: Path, options: Sequence[object]) -> None:
        self._nodes, self._photos, self._folder, self._options = nodes, photos, folder, options
        subprocess.run(command(photos, "--out", folder / "whole", *options), check=True, capture_output=True)
        self._whole = content_of(folder / "whole")
        self._source = random.Random(0)
        self._process: subprocess.Popen[bytes] | None = None
        self.ended, self.equal = 0, True

    def strike(self, victim: str) -> bool:
        """Kill it at a random instant; False if the run ended first, or there was none to kill."""
        process = self._running()
        try:
            process.wait(self._source.uniform(0, MOST_SECONDS))
        except subprocess.TimeoutExpired:
            return {"command": self._kill_command, "actor": self._kill_actor, "node": self._kill_node}[victim]()
        self._compare(process)
        return False

    def finish(self) -> None:
        """Let the last run end."""
        process = self._running()
        process.wait()
        self._compare(process)

    @property
    def _out(self) -> Path:
        return self._folder / f"out{self.ended}"

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            words = command(self._photos, "--out", self._out, *self._options, "--ray", self._nodes.address)
            with (self._folder / "stderr").open("ab") as log:
                self._process = subprocess.Popen([*words, "--ray-actors", "2"], stderr=log)
        return self._process

    def _compare(self, process: "subprocess.Popen[bytes]") -> None:
        equal = process.returncode == 0 and content_of(self._out) == self._whole
        if not equal:
            log = (self._folder / "stderr").read_text()[-1000:]
            print(f"{self._out.name}: exit status {process.returncode}, results differ or lack; {log}", flush=True)
        rows = [json.loads(line) for path in sorted((self._out / "results").iterdir()) for line in path.open()]
        in_order = [row["id"] for row in rows] == sorted(path.name for path in self._photos.iterdir())
        self.equal &= equal and in_order
        self.ended, self._process = self.ended + 1, None

    def _kill_command(self) -> bool:
        process = self._running()
        process.kill()
        process.wait()
        self._process = None  # the next one goes on in the same folder
        return True

    def _kill_actor(self) -> bool:
        actors = self._nodes.actors()
        if actors:
            kill(self._source.choice(actors))
        return bool(actors)

    def _kill_node(self) -> bool:
        return bool(self._nodes.replace_second_node())


def check_kills(folder: Path, kills: dict[str, int], images: int) -> bool:
    photos = tiny_images(folder / "photos", images, 12)
    options = ("--model", "cifar10", "--format", "jsonl", "--batch", 8, "--models", MODELS)
    victims = [victim for victim, count in kills.items() for _ in range(count)]
    random.Random(0).shuffle(victims)
    with TwoNodes() as nodes:
        runs = Runs(nodes, photos, folder, options)
        for number, victim in enumerate(victims, 1):
            while not runs.strike(victim):
                pass
            print(f"{number} of {len(victims)}: {victim}", file=sys.stderr, flush=True)
        runs.finish()
    landed = ", ".join(f"{count} of {victim}" for victim, count in kills.items())
    print(f"kills: {landed}; {runs.ended} runs; bytes equal, each image once and in order: {runs.equal} (target True)")
    return runs.equal


# ---- rate ----


def check_rate(folder: Path, data: Path, model: str, rounds: int, images: int) -> bool:
    photos, cores = copies(folder / "photos", data, model, images), available_cores()
    with TwoNodes() as nodes:
        on_ray = ("--ray", nodes.address, "--ray-actors", cores)
        found = in_turns(folder, photos, model, rounds, [("--processes", cores), on_ray])
    return report(f"{model}: Ray on two nodes over this machine without it", found, RATE)


def check_threads(folder: Path, data: Path, model: str, rounds: int, images: int) -> bool:
    """Says which is faster; there is no target."""
    photos, cores = copies(folder / "photos", data, model, images), available_cores()
    with TwoNodes() as nodes:
        ray = ("--ray", nodes.address)
        ways = [(*ray, "--ray-actors", cores), (*ray, "--ray-actors", 1, "--threads", cores)]
        found = in_turns(folder, photos, model, rounds, ways)
    return report(f"{model}: one actor of {cores} threads over {cores} actors of one", found, 0)


def copies(folder: Path, data: Path, model: str, count: int) -> Path:
    """A folder of this many links to the images of a model's labelled set."""
    images = next(case.images for case in cases(data) if case.model == model)
    folder.mkdir()
    for number in range(count):
        path = images[number % len(images)]
        (folder / f"{number:07d}{path.suffix}").symlink_to(path.absolute())
    return folder


def in_turns(
    folder: Path, photos: Path, model: str, rounds: int, ways: Sequence[Sequence[object]]
) -> Sequence[tuple[float, ...]]:
    """Images a second of each way in each round, from the command's own line: without its start."""
    options = (
        "--model",
        model,
        "--models",
        MODELS,
        "--format",
        "jsonl",
        "--batch",
        8,
        "--max-views",
        8,
        "--stop",
        "all",
    )
    found = []
    for number in range(rounds):
        rates = []
        for way, more in enumerate(ways):
            start, out = time.monotonic(), folder / f"out-{number}-{way}"
            done = subprocess.run(
                command(photos, "--out", out, *options, *more), check=True, stderr=subprocess.PIPE, text=True
            )
            line = next(line for line in done.stderr.splitlines() if line.startswith("rate"))
            rates.append(float(line.split()[1]))
            print(f"round {number}, way {way}: {line.strip()}, {time.monotonic() - start:.0f} s", flush=True)
        found.append(tuple(rates))
    return found


# ---- Ray Data ----

BATCHES = """
import os, sys, time, ray.data
log, deadly = sys.argv[1], int(sys.argv[2])

class Note:
    def __call__(self, batch):
        number = int(batch["id"][0])
        with open(log, "a") as file:
            file.write(f"{number}\\n")
        if number == deadly:
            os._exit(1)
        time.sleep(0.2)
        return batch

ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
pool = ray.data.ActorPoolStrategy(size=2)
rows = ray.data.range(200, override_num_blocks=200).map_batches(Note, batch_size=1, compute=pool).iter_rows()
for _ in zip(range(6 if deadly < 0 else 200), rows):
    time.sleep(2 if deadly < 0 else 0)
"""


def check_data(folder: Path, seconds: float) -> bool:
    """Says what happens; there is no target."""
    run = batches_run(folder / "stopped", -1, 10 * seconds)
    print(f"map_batches: its reader stopped after 6 rows, {len(run)} of 200 had run")
    run = batches_run(folder / "deadly", 3, seconds)
    print(f"map_batches: a batch that ends its actor was run {run.count('3')} times in {seconds:.0f} s")
    return True


def batches_run(log: Path, deadly: int, seconds: float) -> Sequence[str]:
    """The numbers of the batches that were run within a time; number `deadly` ends its actor."""
    log.touch()
    process = subprocess.Popen([sys.executable, "-c", BATCHES, str(log), str(deadly)], stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return log.read_text().split()


def report(what: str, found: Sequence[tuple[float, ...]], target: float) -> bool:
    ratios = [second / first for first, second in found]
    ratio = statistics.median(ratios)
    print(f"{what}: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}; target {target:g})")
    return ratio >= target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=["kills", "rate", "threads", "data"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--commands", type=int, default=10)
    parser.add_argument("--actors", type=int, default=10)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--model", default="clothing")
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    enter_namespace()
    kills = {"command": args.commands, "actor": args.actors, "node": args.nodes}
    with tempfile.TemporaryDirectory() as name:
        folder, given = Path(name), (args.data, args.model)
        checks = {
            "kills": lambda: check_kills(folder, kills, args.images or 5000),
            "rate": lambda: check_rate(folder, *given, args.rounds or 3, args.images or 14336),
            "threads": lambda: check_threads(folder, *given, args.rounds or 3, args.images or 2000),
            "data": lambda: check_data(folder, args.seconds),
        }
        met = checks[args.check]()
    raise SystemExit(0 if met else 1)


def enter_namespace() -> None:
    """Run this command again in a network namespace, and end with its status; return inside of it."""
    if INSIDE in os.environ:
        return
    if reason := why_not():
        raise SystemExit(reason)
    with ray_environment() as environment:
        words = [*UNSHARE, sys.executable, *sys.argv]
        done = subprocess.run(words, env={**os.environ, **environment, INSIDE: "1"})
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
