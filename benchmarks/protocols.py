"""What each protocol costs: one image, one client at a time, over v1 HTTP, v2 HTTP and gRPC in turns.

Requests are built beforehand and answers are only received, so that the client costs little; `tritonclient`, which
builds each request and decodes each answer, is measured for comparison. The model is served with 1 or 8 views whatever
the protocol. The protocols take turns, in another order each round, so that drift affects all of them alike.
"""

import argparse
import contextlib
import http.client
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import tritonclient.grpc
import tritonclient.http
import yaml
from numpy import array, object_, percentile
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2 as pb

from benchmarks.server import MODELS, Endpoints, served
from benchmarks.v2_requests import RAW, SERVICE, Inference

MODEL = "clothing"
TARGET_MS = 0.5
"""By how much the p50 of v2 and gRPC may exceed that of v1."""
WITH_TARGET = ("v2, binary", "v2, raw", "gRPC")
BASE = "v1"
PREDICT, INFER = f"/v1/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"

Ask = Callable[[], object]


def write_model(folder: Path, views: int) -> None:
    """The model with a default budget and `min_views` such that every request gets that many views."""
    source = MODELS / MODEL
    config = yaml.safe_load((source / "tta.yaml").read_text())
    config["budget"] |= {"default_ms": 10_000, "min_views": views}
    config["policy"]["views"] = config["policy"]["views"][:views]
    (folder / MODEL).mkdir(parents=True)
    (folder / MODEL / "tta.yaml").write_text(yaml.safe_dump(config))
    (folder / MODEL / "1").symlink_to((source / "1").resolve())


def post(link: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Returns the answer's body; ends the run for any status but 200."""
    link.request("POST", path, body, headers)
    reply = link.getresponse()
    found = reply.read()
    if reply.status != 200:
        raise SystemExit(f"the server answered {reply.status}: {found[:200]!r}")
    return found


def check_views(found: int, views: int) -> None:
    if found != views:
        raise SystemExit(f"asked for {views} views, got {found}")


def http_requests(stack: contextlib.ExitStack, endpoints: Endpoints, image: bytes, views: int) -> dict[str, Ask]:
    links = {name: http.client.HTTPConnection(*endpoints.http) for name in ("v1", "binary", "raw")}
    for link in links.values():
        stack.callback(link.close)
    body, headers = Inference([image]).as_binary()
    receipt = json.loads(post(links["v1"], PREDICT, image, {}))["receipt"]
    check_views(len(receipt["views"]), views)
    header, _ = json.JSONDecoder().raw_decode(post(links["binary"], INFER, body, headers).decode("latin-1"))
    check_views(header["parameters"]["tta_views"], views)
    return {
        BASE: lambda: post(links["v1"], PREDICT, image, {}),
        "v2, binary": lambda: post(links["binary"], INFER, body, headers),
        "v2, raw": lambda: post(links["raw"], INFER, image, RAW),
    }


def grpc_requests(stack: contextlib.ExitStack, endpoints: Endpoints, image: bytes, views: int) -> dict[str, Ask]:
    channel = stack.enter_context(grpc.insecure_channel(endpoints.grpc))
    call = channel.unary_unary(f"{SERVICE}ModelInfer", None, None)
    message = Inference([image]).as_message(MODEL).SerializeToString()
    answer = pb.ModelInferResponse.FromString(call(message))
    check_views(answer.parameters["tta_views"].int64_param, views)
    return {"gRPC": lambda: call(message)}


def tritonclient_requests(stack: contextlib.ExitStack, endpoints: Endpoints, image: bytes) -> dict[str, Ask]:
    address = "{}:{}".format(*endpoints.http)
    over_http = stack.enter_context(contextlib.closing(tritonclient.http.InferenceServerClient(address)))
    over_grpc = stack.enter_context(contextlib.closing(tritonclient.grpc.InferenceServerClient(endpoints.grpc)))
    images = array([[image]], object_)

    def ask(client: tritonclient.http.InferenceServerClient, library: object) -> None:
        tensor = library.InferInput("IMAGE", [1, 1], "BYTES")  # type: ignore[attr-defined]
        tensor.set_data_from_numpy(images)
        if client.infer(MODEL, [tensor]).as_numpy("PROBABILITIES").shape != (1, 10):
            raise SystemExit("tritonclient got an output of another shape")

    return {
        "v2, tritonclient": lambda: ask(over_http, tritonclient.http),
        "gRPC, tritonclient": lambda: ask(over_grpc, tritonclient.grpc),
    }


@contextlib.contextmanager
def protocols(endpoints: Endpoints, image: bytes, views: int) -> Iterator[dict[str, Ask]]:
    """One request over each protocol, by name; the number of views is checked once for each."""
    with contextlib.ExitStack() as stack:
        yield {
            **http_requests(stack, endpoints, image, views),
            **grpc_requests(stack, endpoints, image, views),
            **tritonclient_requests(stack, endpoints, image),
        }


def measure(requests: dict[str, Ask], rounds: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each request; a tenth as many rounds come first and are not counted."""
    source, order = random.Random(seed), list(requests)
    seen: dict[str, list[float]] = {name: [] for name in requests}
    for number in range(-rounds // 10, rounds):
        source.shuffle(order)
        for name in order:
            start = time.perf_counter()
            requests[name]()
            if number >= 0:
                seen[name].append((time.perf_counter() - start) * 1e3)
    return seen


def row(name: str, found: Sequence[float], base: Sequence[float]) -> list[str]:
    """p50 and p95, p50 less that of v1, the median of the differences within a round, met or missed."""
    p50, p95 = statistics.median(found), float(percentile(found, 95))
    if name == BASE:
        return [name, f"{p50:.2f}", f"{p95:.2f}", "", "", ""]
    more = p50 - statistics.median(base)
    paired = statistics.median(mine - other for mine, other in zip(found, base, strict=True))
    verdict = ("met" if more <= TARGET_MS else "missed") if name in WITH_TARGET else ""
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
        with tempfile.TemporaryDirectory() as models:
            write_model(Path(models), views)
            with served("--models", models) as endpoints, protocols(endpoints, image, views) as requests:
                seen = measure(requests, args.rounds, args.seed)
        table = Table("ms, one at a time", "p50", "p95", "p50 to v1", "paired", f"at most +{TARGET_MS}",
                      title=f"K = {views}", title_justify="left")  # fmt: skip
        for name, found in seen.items():
            table.add_row(*row(name, found, seen[BASE]))
        console.print(table)


if __name__ == "__main__":
    main()
