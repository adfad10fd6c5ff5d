"""What each door costs: one image, one client at a time, over plain HTTP, v2 and gRPC in turns.

Requests are built beforehand and answers are only counted, so that the client costs little; tritonclient's own way is
there for comparison. The server's model is set to 1 or 8 views for every door alike. The doors take turns, in another
order each round, so that drift hits all alike.
"""

import argparse
import contextlib
import http.client
import json
import random
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import tritonclient.grpc
import tritonclient.http
import yaml
from isolation import MODELS, SERVICE, Doors, served
from numpy import array, object_, percentile
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2 as pb

MODEL = "clothing"
TARGET_MS = 0.5
"""By which v2 and gRPC may be slower than plain HTTP, at p50."""
HELD_TO = ("v2, bytes", "v2, raw", "gRPC")
PLAIN = "plain"

Ask = Callable[[], None]


def folder_of(scratch: Path, views: int) -> Path:
    """The model as it is, but so that a request without any parameter gets that many views, whatever it takes."""
    source = MODELS / MODEL
    config = yaml.safe_load((source / "tta.yaml").read_text())
    config["budget"] |= {"default_ms": 10_000, "min_views": views}
    config["policy"]["views"] = config["policy"]["views"][:views]
    (scratch / MODEL).mkdir(parents=True)
    (scratch / MODEL / "tta.yaml").write_text(yaml.safe_dump(config))
    (scratch / MODEL / "1").symlink_to((source / "1").resolve())
    return scratch


# ---- the doors ----


def check_status(status: int, body: bytes) -> None:
    if status != 200:
        raise SystemExit(f"the server answered {status}: {body[:200]!r}")


def check_views(found: int, views: int) -> None:
    if found != views:
        raise SystemExit(f"asked for {views} views, got {found}")


def over_http(link: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    link.request("POST", path, body, headers)
    reply = link.getresponse()
    found = reply.read()
    check_status(reply.status, found)
    return found


def element(image: bytes) -> bytes:
    return struct.pack("<I", len(image)) + image


def binary_request(image: bytes) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": len(image) + 4}
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + element(image), {"Inference-Header-Content-Length": str(len(head))}


def message(image: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[element(image)])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    return request


@contextlib.contextmanager
def asking(doors: Doors, image: bytes, views: int) -> Iterator[dict[str, Ask]]:
    """One request over each door, by name; the number of views is checked before."""
    address = "{}:{}".format(*doors.http)
    infer = f"/v2/models/{MODEL}/infer"
    with contextlib.ExitStack() as stack:
        links = {name: http.client.HTTPConnection(*doors.http) for name in (PLAIN, "bytes", "raw")}
        for link in links.values():
            stack.callback(link.close)
        channel = stack.enter_context(grpc.insecure_channel(doors.grpc))
        call = channel.unary_unary(f"{SERVICE}ModelInfer", None, None)
        own_http = stack.enter_context(contextlib.closing(tritonclient.http.InferenceServerClient(address)))
        own_grpc = stack.enter_context(contextlib.closing(tritonclient.grpc.InferenceServerClient(doors.grpc)))
        body, headers = binary_request(image)
        sent = message(image).SerializeToString()
        pixels = array([[image]], object_)

        def with_tritonclient(client: tritonclient.http.InferenceServerClient, kind: object) -> None:
            tensor = kind.InferInput("IMAGE", [1, 1], "BYTES")  # type: ignore[attr-defined]
            tensor.set_data_from_numpy(pixels)
            if client.infer(MODEL, [tensor]).as_numpy("PROBABILITIES").shape != (1, 10):
                raise SystemExit("tritonclient got something else")

        plain = json.loads(over_http(links[PLAIN], f"/v1/models/{MODEL}/predict", image, {}))
        check_views(len(plain["receipt"]["views"]), views)
        told = json.JSONDecoder().raw_decode(over_http(links["bytes"], infer, body, headers).decode("latin-1"))[0]
        check_views(told["parameters"]["tta_views"], views)
        answer = pb.ModelInferResponse.FromString(call(sent))
        check_views(answer.parameters["tta_views"].int64_param, views)
        yield {
            PLAIN: lambda: void(over_http(links[PLAIN], f"/v1/models/{MODEL}/predict", image, {})),
            "v2, bytes": lambda: void(over_http(links["bytes"], infer, body, headers)),
            "v2, raw": lambda: void(over_http(links["raw"], infer, image, {"Inference-Header-Content-Length": "0"})),
            "gRPC": lambda: void(call(sent)),
            "v2, tritonclient": lambda: with_tritonclient(own_http, tritonclient.http),
            "gRPC, tritonclient": lambda: with_tritonclient(own_grpc, tritonclient.grpc),
        }


def void(answer: object) -> None:
    """It has come: that is all."""


# ---- measuring ----


def measure(ways: dict[str, Ask], rounds: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each request; what a warm-up of a tenth finds is thrown away."""
    dice, order = random.Random(seed), list(ways)
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-rounds // 10, rounds):
        dice.shuffle(order)
        for name in order:
            start = time.perf_counter()
            ways[name]()
            if number >= 0:
                seen[name].append((time.perf_counter() - start) * 1e3)
    return seen


def row(name: str, found: Sequence[float], plain: Sequence[float]) -> list[str]:
    """p50 and p95, the p50 less the plain door's, the median of the differences within a round."""
    p50, p95 = statistics.median(found), float(percentile(found, 95))
    if name == PLAIN:
        return [name, f"{p50:.2f}", f"{p95:.2f}", "", "", ""]
    more = p50 - statistics.median(plain)
    paired = statistics.median(mine - other for mine, other in zip(found, plain, strict=True))
    verdict = ("met" if more <= TARGET_MS else "missed") if name in HELD_TO else ""
    return [name, f"{p50:.2f}", f"{p95:.2f}", f"{more:+.2f}", f"{paired:+.2f}", verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--image", type=Path, default=MODELS / MODEL / "sample.jpg")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    image = args.image.read_bytes()
    console = Console()
    for views in (1, 8):
        with tempfile.TemporaryDirectory() as scratch:
            models = folder_of(Path(scratch), views)
            with served("--models", str(models)) as doors, asking(doors, image, views) as ways:
                seen = measure(ways, args.rounds, args.seed)
        table = Table("ms, one at a time", "p50", "p95", "p50 to plain", "paired", f"at most +{TARGET_MS}",
                      title=f"K = {views}", title_justify="left")  # fmt: skip
        for name, found in seen.items():
            table.add_row(*row(name, found, seen[PLAIN]))
        console.print(table)


if __name__ == "__main__":
    main()
