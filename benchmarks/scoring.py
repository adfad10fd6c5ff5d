"""Offline scoring: kills, answers against the server's, rate, memory, --url, oddities; exits with 1 on a miss.

    python benchmarks/scoring.py kills [--kills 100] [--images 5000]
    python benchmarks/scoring.py server [--images 200]
    python benchmarks/scoring.py rate [--rounds 5] [--seconds 6]
    python benchmarks/scoring.py memory [--images 100000] [--paths 1000000]
    python benchmarks/scoring.py remote [--images 600] [--rounds 3]
    python benchmarks/scoring.py odd

`kills` kills (-9) a run at random instants, and compares what is left at the end with an uninterrupted run, to the
byte. `server` scores the labelled images and asks a server for the same. `rate` runs in turns with a bare loop of
decoding, resizing and model (threads, one a core), and for clothing with a script of `multiprocessing.Pool`. `memory`
compares the peak memory of a short and a long run, and lists paths. `remote` scores with a server on this machine, in
turns with a local run, and beside an interactive client (`scoring_remote.py`). `odd` has full disks, inputs that
vanish, broken and doubled images, and odd names (`scoring_odd.py`).
"""

import argparse
import hashlib
import http.client
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from benchmarks.floor import views_per_second
from benchmarks.gateway import VIEWS, Case, cases, session
from benchmarks.server import DATA, MODELS, served
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.scorer import open_plan, read_scoring_options
from tta_server.serving.answer import Answer
from tta_server.serving.cores import available_cores
from tta_server.serving.image import read_source
from tta_server.serving.plan import Options, make_plan

PROMISED = {"clothing": 0.93, "nuclei": 0.95, "bloodcells": 0.88, "mouse": 0.88}
"""Least rate, as a share of the bare loop's."""
LEAST_SCORED, SCORED_SECONDS = 1000, 20
"""Of a run whose rate is taken: images, and seconds at the bare loop's rate."""
CLOSE = 1.1e-6
"""1e-6, and a step of the answers' rounding to six digits counts as one."""
FLAT = 1.05
MOST_MB = 300


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tta_server", "score", *map(str, arguments)]


def tiny_images(folder: Path, count: int, broken: int = 0) -> Path:
    """JPEG files of 32x32 pixels of which the first `broken`, spread over all, are no images."""
    source = np.random.default_rng(0)
    contents = []
    for _ in range(64):
        pixels = cv2.resize(source.integers(0, 255, (4, 4, 3), np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
        contents.append(cv2.imencode(".jpg", pixels)[1].tobytes())
    every = count // broken if broken else count + 1
    folder.mkdir()
    for number in range(count):
        is_broken = broken and number % every == every // 2 and number // every < broken
        (folder / f"{number:07d}.jpg").write_bytes(b"no image" if is_broken else contents[number % 64])
    return folder


def content_of(out: Path) -> dict[str, str]:
    paths = [*(out / "results").iterdir(), out / "ledger.jsonl", out / "manifest.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_kills(folder: Path, kills: int, images: int) -> bool:
    photos = tiny_images(folder / "photos", images, 12)
    options = ("--model", "cifar10", "--format", "jsonl", "--batch", 8, "--models", MODELS)
    subprocess.run(command(photos, "--out", folder / "whole", *options), check=True, capture_output=True)
    whole, source, landed = content_of(folder / "whole"), random.Random(0), 0
    out, same = folder / "out", True
    while landed < kills:
        process = subprocess.Popen(command(photos, "--out", out, *options), stderr=subprocess.DEVNULL)
        try:
            process.wait(1.0 + source.expovariate(0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            landed += 1
        else:  # it ended first: compare what it wrote, and begin another run
            same &= process.returncode == 0 and content_of(out) == whole
            out = folder / f"out{landed}"
    subprocess.run(command(photos, "--out", out, *options), check=True, capture_output=True)
    same &= content_of(out) == whole
    rows = [json.loads(line) for path in sorted((out / "results").iterdir()) for line in path.open()]
    in_order = [row["id"] for row in rows] == sorted(path.name for path in photos.iterdir())
    failed = sum(row["status"] == "failed" for row in rows)
    print(
        f"{landed} kills: bytes equal {same}, each image once and in order {in_order}, {failed} of 12 broken are rows"
    )
    return same and in_order and failed == 12


# ---- the server's answers ----


def check_server(data: Path, count: int) -> bool:
    found = [same_as_served(case, count) for case in [*cases(data), counting(data), small(data)]]
    return all(found)


def counting(data: Path) -> Case:
    return Case("nuclei-count", (3, 256, 256), sorted((data / "nuclei" / "images").glob("*.png")), 0)


def small(data: Path) -> Case:
    return Case("cifar10", (3, 32, 32), sorted((data / "cifar10").glob("*/*"))[::5], 0)


def same_as_served(case: Case, count: int) -> bool:
    images = case.images[:count]
    policy = case.policy and json.loads(case.policy) if case.policy.startswith("[") else case.policy or None
    options: dict[str, Any] = {"min_views": "all", "stop": "all", "policy": policy, "top_k": 1000}
    plan, worst, other = open_plan(MODELS / case.model, read_scoring_options(options)), 0.0, 0
    named = (InputImage(path.name, partial(path.read_bytes)) for path in images)
    scored = [each.outcome for each in BatchScorer(plan, 8, Limits()).score(named)]
    query = f"min_views=all&stop=all&budget_ms=60000&top_k=1000&policy={quote(case.policy)}".removesuffix("&policy=")
    with served("--models", str(MODELS)) as endpoints:
        connection = http.client.HTTPConnection(*endpoints.http)
        for path, outcome in zip(images, scored, strict=True):
            connection.request("POST", f"/v1/models/{case.model}/predict?{query}", path.read_bytes())
            served_answer = json.loads(connection.getresponse().read())["prediction"]
            assert isinstance(outcome, Answer), outcome
            if served_answer.get("mask"):
                other += served_answer["mask"] != outcome.prediction["mask"]
            elif difference := distance(outcome.prediction, served_answer):
                worst = max(worst, difference)
    plan.model.retire()
    print(f"{case.model}: {len(images)} images, largest difference {worst:.2g} (target {CLOSE:g}), {other} other masks")
    return worst <= CLOSE and other == 0


def distance(found: Any, expected: Any) -> float:
    """The largest difference of numbers; infinite where labels, order or keys differ."""
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return float("inf")
        return max((distance(found[key], expected[key]) for key in expected), default=0.0)
    if isinstance(expected, list):
        return max(map(distance, found, expected), default=0.0) if len(found) == len(expected) else float("inf")
    if isinstance(expected, float):
        return abs(found - expected)
    return 0.0 if found == expected else float("inf")


# ---- rate ----


def check_rates(found: list[Case], rounds: int, seconds: float, batch: int | None, threads: bool) -> bool:
    cv2.setNumThreads(1)
    met = [check_rate(case, rounds, seconds, batch, threads) for case in found]
    return all(met)


def check_rate(case: Case, rounds: int, seconds: float, batch: int | None, threads: bool) -> bool:
    encoded = [path.read_bytes() for path in case.images]
    bare, scoring, pool = [], [], []
    for _ in range(rounds):
        bare.append(bare_rate(case, encoded, seconds))
        scoring.append(scored_rate(case, batch, max(LEAST_SCORED, int(bare[-1] * SCORED_SECONDS)), threads))
        if case.model == "clothing":
            pool.append(pool_rate(case, seconds))
    ratios = [ours / direct for ours, direct in zip(scoring, bare, strict=True)]
    ratio, target = statistics.median(ratios), PROMISED[case.model]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}; {statistics.median(scoring):.1f} images/s"
    print(f"{case.model}: {ratio:.3f} of the bare loop ({spread}; target {target})")
    if not pool:
        return ratio >= target
    against = statistics.median(ours / theirs for ours, theirs in zip(scoring, pool, strict=True))
    print(f"{case.model}: {against:.3f} of a script of multiprocessing.Pool (target 1)")
    return ratio >= target and against >= 1


def bare_rate(case: Case, images: list[bytes], seconds: float) -> float:
    """Images a second of decoding, resizing and a run of the model for each view, of its size, by two threads."""
    model = load_model(MODELS / case.model)
    plan = make_plan(model, Options(max_views=VIEWS, policy=case.policy or None))
    image = read_source(images[0], Limits()).size
    sizes = [size for view in plan.views for size in model.preprocessing.input_sizes(view, image)]
    tensors = [np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32) for size in sizes]

    def handle(image: bytes) -> None:
        model.preprocessing.canvas(read_source(image, Limits()).open().raster, 1.0)
        for tensor in tensors:
            model.backend.infer(tensor)

    assert len(tensors) == VIEWS
    try:
        return views_per_second(handle, images, seconds) / VIEWS
    finally:
        model.retire()


def scored_rate(case: Case, batch: int | None, count: int, threads: bool) -> float:
    """Images a second of the command's run, from its own lines: loading and measuring are left out.

    Few images are scored several times, so that the last batches, after which a process waits, count for little.
    """
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "images"
        listed.mkdir()
        for turn in range(-(-count // len(case.images))):
            for number, path in enumerate(case.images):
                (listed / f"{turn}-{number:04}{path.suffix}").symlink_to(path.absolute())
        options = ["--model", case.model, "--models", MODELS, "--format", "jsonl", "--out", Path(folder) / "out"]
        options += [
            "--max-views",
            VIEWS,
            "--stop",
            "all",
            *(["--policy", case.policy] if case.policy else []),
        ]
        options += ["--batch", batch] if batch else []
        options += ["--threads", available_cores()] if threads else []
        done = subprocess.run(command(listed, *options), check=True, capture_output=True, text=True)
    line = next(line for line in done.stderr.splitlines() if line.startswith("rate"))
    return float(line.split()[1])


SESSION: Any = None
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def start_worker() -> None:
    global SESSION
    cv2.setNumThreads(1)
    SESSION = session(MODELS, "clothing")


def by_hand(path: str) -> int:
    """What a user writes: short side 146, centre crop of 128, mirrored and shifted views in one batch, the mean."""
    image = Image.open(path).convert("RGB")
    scale = 146 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / 255
    top, left = (pixels.shape[0] - 128) // 2, (pixels.shape[1] - 128) // 2
    shifts = [(0, 0), (0, 6), (0, -6), (6, 0), (-6, 0)]
    views = [pixels[top + y : top + y + 128, left + x : left + x + 128] for y, x in shifts]
    views = (views + [view[:, ::-1] for view in views])[:VIEWS]
    batch = ((np.stack(views) - MEAN) / STD).transpose(0, 3, 1, 2)
    logits = SESSION.run(None, {SESSION.get_inputs()[0].name: np.ascontiguousarray(batch, np.float32)})[0]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return int((odds / odds.sum(axis=1, keepdims=True)).mean(axis=0).argmax())


def pool_rate(case: Case, seconds: float) -> float:
    """Images a second of the script, without the start of its processes."""
    paths = [str(path) for path in case.images]
    with multiprocessing.get_context("spawn").Pool(initializer=start_worker, processes=available_cores()) as pool:
        pool.map(by_hand, paths[:8])
        start = time.perf_counter()
        pool.map(by_hand, paths)
        return len(paths) / (time.perf_counter() - start)


# ---- memory ----


def check_memory(folder: Path, images: int, paths: int) -> bool:
    short, long = tiny_images(folder / "short", 1000), tiny_images(folder / "long", images)
    peaks = [peak_mb(run_peak(photos, folder / f"out-{photos.name}")) for photos in (short, long)]
    ratio = peaks[1] / peaks[0]
    print(f"peak memory: {peaks[0]:.0f} MB at 1000 images, {peaks[1]:.0f} MB at {images}: {ratio:.3f} (target {FLAT})")
    listing = [listed_mb(folder / "list.txt", place, paths) for place in ("some/folder/of/photos", "memory://a/folder")]
    print(f"{paths} paths are listed in {listing[0]:.0f} MB, URLs in {listing[1]:.0f} MB (target {MOST_MB})")
    return ratio <= FLAT and max(listing) <= MOST_MB


def listed_mb(listed: Path, place: str, paths: int) -> float:
    """Memory in MB that a list of images takes."""
    listed.write_text("".join(f"{place}/{number:09d}.jpg\n" for number in range(paths)))
    script = "import sys; from benchmarks.scoring import resident_mb\nbefore = resident_mb('self')\n"
    script += "from tta_server.scoring.inputs import open_inputs\nfound = open_inputs(sys.argv[1])\n"
    script += "assert sum(1 for _ in found.marks()) == len(found)\nprint(resident_mb('self') - before)"
    done = subprocess.run([sys.executable, "-c", script, str(listed)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def run_peak(photos: Path, out: Path) -> list[str]:
    options = ("--model", "cifar10", "--max-views", 2, "--batch", 32, "--format", "jsonl", "--models", MODELS)
    return command(photos, "--out", out, *options)


def peak_mb(words: list[str]) -> float:
    """Peak resident memory of a command and its processes in MB, each as last seen before its end."""
    process, peaks = subprocess.Popen(words, stderr=subprocess.DEVNULL), dict[int, float]()
    while process.poll() is None:
        with suppress(OSError, StopIteration):  # it has just ended
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for each in (process.pid, *map(int, children)):
                peaks[each] = resident_mb(each)
        time.sleep(0.05)
    assert process.returncode == 0, process.returncode
    return sum(peaks.values())


def resident_mb(process: int | str) -> float:
    """Peak resident memory since its start, in MB; getrusage counts that of the process which started it too."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    from benchmarks.scoring_odd import check_odd
    from benchmarks.scoring_remote import check_remote

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=["kills", "server", "rate", "memory", "remote", "odd"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--only", help="rate: which model")
    parser.add_argument("--batch", type=int, help="rate: views of a batch; default: as the command measures")
    parser.add_argument("--paths", type=int, default=1_000_000)
    parser.add_argument("--threads", action="store_true", help="rate: by threads, not by processes")
    args = parser.parse_args()
    only = [case for case in cases(args.data) if args.only in (None, case.model)]
    with tempfile.TemporaryDirectory() as folder:
        checks = {
            "kills": lambda: check_kills(Path(folder), args.kills, args.images or 5000),
            "server": lambda: check_server(args.data, args.images or 200),
            "rate": lambda: check_rates(only, args.rounds, args.seconds, args.batch, args.threads),
            "memory": lambda: check_memory(Path(folder), args.images or 100_000, args.paths),
            "remote": lambda: check_remote(args.data, Path(folder), args.images or 600, args.rounds),
            "odd": check_odd,
        }
        met = checks[args.check]()
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
