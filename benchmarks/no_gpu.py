"""What `serve` does with a model on a GPU where there is none: `cuda` is refused at once, `auto` serves on the cores.

Targets: a non-zero exit in under 5 s with one sentence; with `auto` the reason is printed, and a request is answered.
Exits with 1 if one is missed, and with 0 and a line on a machine that has a GPU.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.server import MODELS, served
from tta_server.backends.cuda.driver import count_devices

MOST_SECONDS = 5.0


def with_device(folder: Path, device: str) -> Path:
    """A folder of models with clothing on that device."""
    shutil.copytree(MODELS / "clothing", folder / device / "clothing")
    with (folder / device / "clothing" / "tta.yaml").open("a") as config:
        config.write(f"backend: {{device: {device}}}\n")
    return folder / device


def refused(models: Path) -> bool:
    start = time.perf_counter()
    command = [sys.executable, "-m", "tta_server", "serve", "--models", str(models), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    seconds = time.perf_counter() - start
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    print(f"device: cuda  exit {done.returncode} (target: not 0), {seconds:.1f} s (target: < {MOST_SECONDS:g})")
    print("\n".join(errors))
    return done.returncode != 0 and seconds < MOST_SECONDS and len(errors) == 1


def answered(models: Path) -> bool:
    image = next((MODELS / "clothing").glob("sample.*")).read_bytes()
    with served("--models", str(models)) as endpoints:
        host, port = endpoints.http
        request = urllib.request.Request(f"http://{host}:{port}/v1/models/clothing/predict?budget_ms=5000", image)
        with urllib.request.urlopen(request, timeout=60) as response:
            label = json.load(response)["prediction"]["top"][0]["label"]
    print(f"device: auto  answers {label} (target: an answer)")
    return bool(label)


def main() -> int:
    if count_devices():
        print("this machine has a GPU: nothing to see here")
        return 0
    with tempfile.TemporaryDirectory() as made:
        found = [refused(with_device(Path(made), "cuda")), answered(with_device(Path(made), "auto"))]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
