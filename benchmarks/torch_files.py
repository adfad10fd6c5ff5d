"""What the backend torch promises: crafted files run no code, and models answer as with ONNX Runtime.

Crafted `.pt2` files, each alone in a process of its own: does torch.export.load run their code, and does this server?
Then bundled models, exported by torch from the weights of their ONNX files: the largest difference of class
probabilities, or of outputs where there are none, and the time of a batch on one core. Exits with 1 where a target is
missed. Needs torch.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS
from tests.support.torch_archives import crafted, write
from tta_server.backends import BACKENDS, Backend, RunOptions

MOST_DIFFERENCE = 1e-5
CLASSIFIERS = {"clothing": ((128, 128), (2, 3)), "cifar10": ((32, 32), ())}
OTHERS = {"nuclei-count": ((256, 256), ()), "nuclei": ((256, 256), (2, 3)), "mouse": ((240, 320), (2, 3))}
"""Sides of the input, and its free axes beside the batch."""
ROWS = 4
ALONE = "import sys, torch; torch.export.load(sys.argv[1]).module()(torch.zeros(2, 3, 8, 8))"
SERVED = "import sys, pathlib, tta_server.backends as b; b.BACKENDS['torch'](pathlib.Path(sys.argv[1]), b.RunOptions())"


def runs_code(program: str, kind: str, folder: Path) -> tuple[bool, str]:
    """Whether the code in a crafted file ran, and the last line that the process printed."""
    marker = folder / "marker"
    path = write(folder / "model.pt2", crafted(marker)[kind])
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, capture_output=True, timeout=300)
    return marker.exists(), (done.stderr.decode().strip().splitlines() or ["no error"])[-1]


def try_crafted_files(console: Console) -> bool:
    table = Table("crafted file", "code ran: torch alone", "code ran: here", "refused here")
    met = True
    for kind in crafted(Path("marker")):
        with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as here:
            by_torch, _ = runs_code(ALONE, kind, Path(alone))
            by_us, sentence = runs_code(SERVED, kind, Path(here))
        refused = "ConfigError" in sentence
        met = met and refused and not by_us
        table.add_row(kind, *("yes" if it else "no" for it in (by_torch, by_us, refused)))
    console.print(table)
    return met


def batch_ms(backend: Backend, batch: Any, rounds: int) -> float:
    """CPU time of a batch on the calling thread; the median."""
    seen = []
    for _ in range(rounds + 1):
        start = time.thread_time()
        backend.infer(batch)
        seen.append((time.thread_time() - start) * 1e3)
    return median(seen[1:])


def softmax(scores: Any) -> Any:
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def compare(console: Console, rounds: int) -> bool:
    import torch

    from tests.support.torch_models import OnnxModule, export

    table = Table("model", "largest difference", "target", "torch, core-ms", "ONNX Runtime, core-ms")
    met = True
    for name, (sides, free) in {**CLASSIFIERS, **OTHERS}.items():
        file = MODELS / name / "1" / "model.onnx"
        with tempfile.TemporaryDirectory() as folder:
            path = export(OnnxModule(file), Path(folder) / "model.pt2", torch.rand(2, 3, *sides), free)
            ours = BACKENDS["torch"](path, RunOptions())
        reference = BACKENDS["onnxruntime"](file, RunOptions())
        batch = np.random.default_rng(1).standard_normal((ROWS, 3, *sides), np.float32)
        found, expected = (next(iter(each.infer(batch).values())) for each in (ours, reference))
        if name in CLASSIFIERS:
            found, expected = softmax(found), softmax(expected)
        off = float(np.abs(found - expected).max())
        met = met and (off <= MOST_DIFFERENCE or name not in CLASSIFIERS)
        times = (f"{batch_ms(each, batch, rounds):.1f}" for each in (ours, reference))
        table.add_row(name, f"{off:.1e}", f"{MOST_DIFFERENCE:.0e}" if name in CLASSIFIERS else "", *times)
    console.print(table)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="batches that are timed")
    console, rounds = Console(), parser.parse_args().rounds
    safe = try_crafted_files(console)
    equal = compare(console, rounds)
    console.print(f"crafted files refused, no code run: {'met' if safe else 'MISSED'}")
    console.print(f"difference of classifiers at most {MOST_DIFFERENCE:.0e}: {'met' if equal else 'MISSED'}")
    return 0 if safe and equal else 1


if __name__ == "__main__":
    sys.exit(main())
