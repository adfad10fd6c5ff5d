"""What KServe asks of a server: a model under a given name on ports 8080 and 9000, over the v2 protocol.

Started as a ServingRuntime starts it, `--model NAME=/mnt/models --port 8080 --grpc-port 9000`, for each layout that a
folder may have: tta.yaml and 1/model.onnx, Triton's, one ONNX file that holds its tta.yaml. Target: every path is
answered for the given name. Exits with 1 if one is not.

    .venv/bin/python benchmarks/kserve.py --folder /mnt/models      as in a cluster; the folder must not exist
    .venv/bin/python benchmarks/kserve.py                           with a temporary folder instead
"""

import argparse
import json
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.server import MODELS, served
from tta_server.onboarding.draft import Draft
from tta_server.onboarding.folder import write_embedded

NAME, SOURCE, PORT, GRPC_PORT = "my-model", MODELS / "clothing", 8080, 9000
IMAGE = (SOURCE / "sample.jpg").read_bytes()
PBTXT = 'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n'


def own(folder: Path) -> None:
    shutil.copytree(SOURCE, folder)


def triton(folder: Path) -> None:
    """config.pbtxt and 1/model.onnx, which holds the text of its tta.yaml."""
    embed(folder)
    (folder / "config.pbtxt").write_text(PBTXT)


def alone(folder: Path) -> None:
    """One ONNX file."""
    embed(folder)
    shutil.move(folder / "1" / "model.onnx", folder / "clothing.onnx")
    (folder / "1").rmdir()


def embed(folder: Path) -> None:
    source = SOURCE / "1" / "model.onnx"
    write_embedded(folder, source, source.read_bytes(), Draft((SOURCE / "tta.yaml").read_text()))


LAYOUTS: dict[str, Callable[[Path], None]] = {"tta.yaml": own, "Triton's": triton, "one file": alone}


def checks() -> Iterator[tuple[str, bool]]:
    """What a cluster's probes and clients send, and whether it is answered for the given name."""
    url = f"http://127.0.0.1:{PORT}"
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/ready", f"/v2/models/{NAME}"):
        with urllib.request.urlopen(url + path) as answer:
            yield f"GET {path}", answer.status == 200
    http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{PORT}")
    yield "infer, HTTP", answers(http.infer(NAME, [image(tritonclient.http)], timeout=5_000_000).get_response())
    post = urllib.request.Request(f"{url}/v1/models/{NAME}/predict?budget_ms=5000", IMAGE)
    with urllib.request.urlopen(post) as answer:
        yield f"POST /v1/models/{NAME}/predict", json.loads(answer.read())["model"] == NAME
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        yield "GET /metrics", f'model="{NAME}"' in answer.read().decode()
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME)).status
        yield "gRPC health of the model", status == health_pb2.HealthCheckResponse.SERVING
    rpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{GRPC_PORT}")
    yield "ready, gRPC", rpc.is_server_ready() and rpc.is_model_ready(NAME)
    response = rpc.infer(NAME, [image(tritonclient.grpc)], client_timeout=5).get_response(as_json=True)
    yield "infer, gRPC", answers(response)


def image(client) -> object:
    tensor = client.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[IMAGE]], np.object_))
    return tensor


def answers(response: dict) -> bool:
    return response["model_name"] == NAME and bool(response["outputs"])


@contextmanager
def folder_at(path: Path | None) -> Iterator[Path]:
    """Where each layout is written in turn; it does not exist before and after."""
    if path is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary) / "mnt" / "models"
        return
    if path.exists():
        raise SystemExit(f"{path} exists; this script writes its own models there: name another --folder")
    yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the model is written; it must not exist")
    args = parser.parse_args()
    met = True
    with folder_at(args.folder) as folder:
        for layout, write in LAYOUTS.items():
            write(folder)
            flags = ("--model", f"{NAME}={folder}", "--port", str(PORT), "--grpc-port", str(GRPC_PORT))
            try:
                with served(*flags):
                    for what, is_right in checks():
                        print(f"{layout:10} {what:36} {'answered' if is_right else 'MISSED'}")
                        met &= is_right
            finally:
                shutil.rmtree(folder)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
