"""NVIDIA's perf_analyzer against this server, with a real Triton behind it that makes the views or only runs the model.

Needs `make triton`, and perf_analyzer: the path of its binary, out of tritonclient 2.51, with `LD_LIBRARY_PATH` set to
what it is linked to. Prints its output for each way and number of requests at once. Exits with 1 if it ends early, as
it does once a request fails, or counts none.
"""

import argparse
import base64
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.ensembles import export
from tests.support.real_triton import RealTriton
from tests.support.references import MODELS
from tests.support.remote import remote_folder
from tests.support.serving import Server, until

NAME = "clothing"
WAYS = {"local": NAME, "graph": f"{NAME}_tta"}
"""`backend.views`, and the model in Triton."""


def images(path: Path) -> Path:
    """The sample as perf_analyzer reads it: BYTES with their length."""
    (sample,) = (MODELS / NAME).glob("sample.*")
    content = sample.read_bytes()
    data = base64.b64encode(struct.pack("<I", len(content)) + content).decode()
    path.write_text(json.dumps({"data": [{"IMAGE": {"b64": data}}]}))
    return path


def analyzed(program: Path, server: Server, folder: Path, concurrency: int, seconds: int) -> tuple[str, bool]:
    """The output, and whether it ended well."""
    command = [program, "-m", NAME, "-i", "grpc", "-u", server.grpc, "--input-data", images(folder / "images.json")]
    command += ["--concurrency-range", str(concurrency), "-p", str(seconds * 1000), "-s", "50", "-r", "4"]
    command += ["--request-parameter", "tta_stop:all:string", "--request-parameter", "tta_min_views:all:string"]
    done = subprocess.run(
        [str(each) for each in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout, done.returncode == 0


def throughput(output: str) -> float:
    found = re.findall(r"Throughput: ([0-9.]+) infer/sec", output)
    return float(found[-1]) if found else 0.0


def p95(output: str) -> str:
    found = re.findall(r"p95 latency: (\d+) usec", output)
    return f"{int(found[-1]) / 1e3:.1f}" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="perf_analyzer")
    parser.add_argument("--seconds", type=int, default=5, help="of each of its measurements")
    options = parser.parse_args()
    columns = ("backend.views", "requests at once", "infer/s", "p95, ms", "target", "met")
    table, met, console = Table(*columns, title_justify="left"), True, Console(width=140)
    with tempfile.TemporaryDirectory() as scratch, RealTriton(Path(scratch) / "triton") as triton:
        folder = Path(scratch)
        export(MODELS / NAME, triton.repository)
        triton.start()
        for views, model in WAYS.items():
            models = folder / views
            remote_folder(models / NAME, MODELS / NAME, triton.url, model=model, views=views)
            config = models / NAME / "tta.yaml"
            config.write_text(config.read_text("utf-8").replace("default_ms: 200", "default_ms: 10000"), "utf-8")
            with Server("--port", "0", "--grpc-port", "0", "--workers", "1", "--models", str(models)) as server:
                with server.client() as client:
                    until(lambda: client.get("/readyz").status_code == 200)
                for concurrency in (1, 4):
                    output, ended = analyzed(options.program, server, folder, concurrency, options.seconds)
                    console.print(output, markup=False, highlight=False)
                    is_met = ended and throughput(output) > 0
                    met &= is_met
                    table.add_row(
                        views, str(concurrency), f"{throughput(output):.1f}", p95(output), "no failed request",
                        "yes" if is_met else "[red]missed",
                    )  # fmt: skip
    console.print(table)
    sys.exit(not met)


if __name__ == "__main__":
    main()
