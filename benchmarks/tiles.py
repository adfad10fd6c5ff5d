"""Images larger than a model takes: the memory and time of tiles, and what they change in the answer.

Memory and time: the drawn nuclei sample, repeated to a size, in a process of its own; the rise of peak resident memory
over the process with the model loaded. Change: the labelled nuclei images (--data) of over 512 pixels, whole and in
tiles of 256 and 512 pixels: the IoU against the labels and the share of pixels that differ; skipped without --data.
"""

import argparse
import csv
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.server import DATA, MODELS
from benchmarks.variants import variant
from tta_server import load

SIZES = ((1500, 1125), (2000, 1500), (3000, 2250), (4000, 3000))


def repeated(sample: Path, width: int, height: int) -> bytes:
    """The sample tiled to that size, as a PNG."""
    piece = Image.open(sample).convert("RGB")
    whole = Image.new("RGB", (width, height))
    for x in range(0, width, piece.width):
        for y in range(0, height, piece.height):
            whole.paste(piece, (x, y))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(models: Path, width: int, height: int, views: int) -> None:
    """Runs in a process of its own: print tiles, seconds, and the rise of peak memory in MB."""
    image = repeated(models / "nuclei" / "sample.png", width, height)
    with load(models / "nuclei") as model:
        model.predict(models / "nuclei" / "sample.png", min_views="all")
        before, start = peak_mb(), time.perf_counter()
        answer = model.predict(image, max_views=views, min_views="all", budget_ms=60_000)
        print(answer.receipt.tiles, time.perf_counter() - start, peak_mb() - before)


def measured(models: Path) -> Table:
    table = Table("image", "views", "tiles", "seconds", "peak MB over loaded", title="two slots")
    for width, height in SIZES:
        for views in (1, 2):
            command = [sys.executable, __file__, "--models", str(models), "--one", str(width), str(height), str(views)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            tiles, seconds, rise = done.stdout.split()
            table.add_row(f"{width}x{height}", str(views), tiles, f"{float(seconds):.1f}", f"{float(rise):.0f}")
    return table


def foreground(answer: object) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.picture))) > 0  # type: ignore[attr-defined]


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def compared(models: Path, data: Path) -> Table:
    rows = list(csv.DictReader((data / "nuclei" / "index.csv").open()))
    names = [row["id"] for row in rows if max(int(row["width"]), int(row["height"])) > 512]
    masks: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for side in (0, 256, 512):
            how = f"tiles of {side}" if side else "whole"
            keys = {"tile": side, "max_size": side} if side else {}
            with load(variant(models / "nuclei", Path(scratch) / str(side), input=keys)) as model:
                for name in track(names, how, transient=True):
                    path = data / "nuclei" / "images" / f"{name}.png"
                    answer = model.predict(path, policy="plain", budget_ms=60_000)
                    masks.setdefault(how, []).append(foreground(answer))
    truths = [np.asarray(Image.open(data / "nuclei" / "labels" / f"{name}.png")) > 0 for name in names]
    table = Table(
        "plain view", "IoU, mean", "pixels that differ from whole", title=f"{len(names)} images over 512 pixels"
    )
    for how, found in masks.items():
        differs = np.mean([np.mean(a != b) for a, b in zip(found, masks["whole"], strict=True)])
        score = np.mean([iou(a, truth) for a, truth in zip(found, truths, strict=True)])
        table.add_row(how, f"{score:.4f}", f"{differs:.3%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--one", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "VIEWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.models, *args.one)
        return
    console = Console()
    console.print(measured(args.models))
    if args.data.is_dir():
        console.print(compared(args.models, args.data))
    else:
        print(f"tiles: comparison skipped, there is no folder {args.data} of labelled images (--data)")


if __name__ == "__main__":
    main()
