"""What traces cost, and whether an exemplar leads to the trace of a slow request.

`step`: what a request that is not recorded costs more than with --traces off, piece by piece, in microseconds.
`load`: processor time and latency of requests of one view at no traces, at 0 %, 1 % and 100 % sampling, and with a
collector that hangs and one that is down; servers take turns.
`exemplars`: a real Prometheus scrapes a real server; its exemplar of the slowest request is found at the collector.
Each exits with 1 where its target is missed.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS, Endpoints, cpu_seconds, served
from tests.support.collector import Collector
from tests.support.prometheus import prometheus
from tests.support.remote import free_port
from tta_server.api.http.middleware import RequestIds
from tta_server.api.http.spans import RequestSpans
from tta_server.api.oip.grpc_calls import Call
from tta_server.telemetry.timings import StageTimes
from tta_server.telemetry.tracing import NO_TRACER, RequestTrace, open_tracer

STEP_US, LATENCY_RATIO = 10.0, 1.1
TRIES = 3
"""Of a round in which a request fails."""
MODEL, SLOW = "cifar10", "clothing"
PATH = f"/v1/models/{MODEL}/predict?budget_ms=5000&max_views=1"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"benchmark"),
    (b"accept", b"*/*"),
    (b"content-type", b"image/jpeg"),
    (b"content-length", b"4096"),
]


def verdict(name: str, found: float, target: float, unit: str = "") -> bool:
    met = found < target
    print(f"{name}: {found:.2f}{unit}; target under {target:g}{unit}: {'met' if met else 'MISSED'}")
    return met


# ---- step ----


async def respond(scope: Any, receive: Any, send: Any) -> None:
    """As an application that does nothing."""


def microseconds(work: Callable[[], object], number: int = 20_000) -> float:
    """Of this thread, so that others on its core do not count; the least of seven."""
    return min(timeit.repeat(work, timer=time.thread_time, number=number, repeat=7)) / number * 1e6


def of_http(app: Any, headers: list[tuple[bytes, bytes]]) -> float:
    def run() -> None:
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        with contextlib.suppress(StopIteration):
            app(scope, None, None).send(None)

    return microseconds(run)


def of_grpc(parent: str, on: Any) -> float:
    call = Call("ModelInfer", "id", "", None, parent=(parent, ""))

    def run() -> None:
        call.traced(on, "inference.GRPCInferenceService").end_trace()

    return microseconds(run)


def of_stages(trace: RequestTrace | None) -> float:
    def run() -> None:
        times = StageTimes(0.0, trace)
        times.mark_decoded(times.mark_dequeued())
        times.mark_dequeued()

    return microseconds(run)


def step(_: argparse.Namespace) -> int:
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    tracer, worst = open_tracer(True), 0.0
    for name, parent in (("no traceparent", ""), ("a traceparent that is not sampled", PARENT)):
        headers = HEADERS + ([(b"traceparent", parent.encode())] if parent else [])
        off = of_http(RequestIds(respond), headers)
        http = of_http(RequestIds(RequestSpans(respond, tracer)), headers) - off
        grpc = of_grpc(parent, tracer) - of_grpc(parent, NO_TRACER)
        stages = of_stages(tracer.begin("POST", {}, parent)) - of_stages(None)
        print(f"{name}: HTTP {http:.2f} us, gRPC {grpc:.2f} us, stages {stages:.2f} us more than with traces off")
        worst = max(worst, http + stages, grpc + stages)
    tracer.close()
    return 0 if verdict("a request that is not recorded", worst, STEP_US, " us") else 1


# ---- load ----


def sampled(share: float) -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": f"{share:g}"}


def measured(server: Endpoints, seconds: float, image: Path) -> tuple[float, float, float]:
    """Milliseconds of a core a request, p50 and p99 of a closed loop of four connections."""
    command = [sys.executable, str(Path(__file__).with_name("client.py")), "--port", str(server.http[1])]
    options = ["--path", PATH, "--views", "1", "--connections", "4", "--seconds", str(seconds)]
    for _ in range(TRIES):
        before = cpu_seconds(server.pid)
        client = subprocess.run([*command, *options, str(image)], stdout=subprocess.PIPE, check=False)
        spent = cpu_seconds(server.pid) - before
        if client.returncode == 0:  # else an answer was an error, as of a machine that stalls for a second
            break
    else:
        raise SystemExit("the server did not answer all requests")
    found = json.loads(client.stdout)
    quantiles = statistics.quantiles(found["latencies_ms"], n=100)
    return 1e3 * spent / found["answers"], quantiles[49], quantiles[98]


def dropped(server: Endpoints) -> int:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return int(next((float(line.split()[1]) for line in lines if line.startswith("tta_dropped_spans_total")), 0))


@contextlib.contextmanager
def servers() -> Iterator[tuple[Mapping[str, Endpoints], Collector]]:
    with contextlib.ExitStack() as stack:
        live, hung = stack.enter_context(Collector()), stack.enter_context(Collector())
        hung.gate.clear()
        down = {"TTA_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        kinds: dict[str, dict[str, str]] = {
            "off": {},
            "0 %": live.variables | sampled(0),
            "1 %": live.variables | sampled(0.01),
            "100 %": live.variables | sampled(1),
            "100 %, it hangs": hung.variables | sampled(1),
            "100 %, it is down": down | sampled(1),
        }
        stack.callback(hung.gate.set)
        yield {name: stack.enter_context(served("--slots", "2", env=env)) for name, env in kinds.items()}, live


def load(args: argparse.Namespace) -> int:
    image = next((MODELS / MODEL).glob("sample.*"))
    with servers() as (running, live):
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in running}
        for server in running.values():
            measured(server, 1, image)
        for number in range(args.rounds):
            order = list(running)
            for name in order[number % len(order) :] + order[: number % len(order)]:
                found[name].append(measured(running[name], args.seconds, image))
        ratios = {name: ratio(found, name) for name in running}
        table = Table("sampled", "core-ms a request", "of off", "p50 ms", "of off", "p99 ms", "dropped spans")
        for name, rounds in found.items():
            core, p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
            cells = (f"{core:.3f}", f"{ratios[name][0]:.3f}", f"{p50:.2f}", f"{ratios[name][1]:.3f}", f"{p99:.2f}")
            table.add_row(name, *cells, str(dropped(running[name])))
        Console(width=120).print(table)
        print(f"the collector has {len(live.spans)} spans")
    bad = max(ratios["100 %, it hangs"][1], ratios["100 %, it is down"][1]) / ratios["100 %"][1]
    return 0 if verdict("p50 with a collector that hangs or is down, of one that works", bad, LATENCY_RATIO) else 1


def ratio(found: Mapping[str, list[tuple[float, float, float]]], name: str) -> tuple[float, float]:
    """Medians over the rounds of core time and p50, of those of `off` in the same round."""
    pairs = list(zip(found[name], found["off"], strict=True))
    return tuple(statistics.median(one[i] / off[i] for one, off in pairs) for i in (0, 1))  # type: ignore[return-value]


# ---- exemplars ----


def ask(client: httpx.Client, model: str, query: str) -> float:
    image = next((MODELS / model).glob("sample.*")).read_bytes()
    response = client.post(f"/v1/models/{model}/predict?budget_ms=5000&{query}", content=image).raise_for_status()
    return float(response.json()["receipt"]["elapsed_ms"])


def slowest_exemplar(address: str, since: float, at_least: float) -> tuple[float, str]:
    """Value in seconds and trace id, once Prometheus has one of at least that duration."""
    for _ in range(120):
        with contextlib.suppress(httpx.TransportError):
            span = {"start": str(since - 60), "end": str(time.time() + 60)}
            query = {"query": "tta_answer_seconds_bucket", **span}
            answer = httpx.get(f"{address}/api/v1/query_exemplars", params=query).json()
            pairs = [
                (float(e["value"]), e["labels"]["trace_id"]) for s in answer.get("data", ()) for e in s["exemplars"]
            ]
            if pairs and max(pairs)[0] >= at_least:
                return max(pairs)
        time.sleep(0.5)
    raise SystemExit("Prometheus has no exemplar of the slow request: MISSED")


def exemplars(args: argparse.Namespace) -> int:
    since = time.time()
    with tempfile.TemporaryDirectory() as folder, Collector() as collector, served(env=collector.variables) as server:
        with (
            prometheus(args.prometheus, server.url.removeprefix("http://"), Path(folder)) as address,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            fast = [ask(client, MODEL, "max_views=1") for _ in range(50)]
            slow = ask(client, SLOW, "stop=all&min_views=all")
            value, trace = slowest_exemplar(address, since, max(slow, *fast) / 1e3 - 1e-9)
        (span,) = collector.wait_for(lambda each: each.trace_id == trace and each.kind == "SPAN_KIND_SERVER")
    found = span.attributes
    print(f"slowest of {len(fast) + 1} requests: {max(slow, *fast):.3f} ms")
    print(f"Prometheus' exemplar: {value * 1e3:.3f} ms, trace {trace}")
    print(f"its trace: {span.name}, {found['tta.model']}, {found['tta.views']} views, {found['tta.elapsed_ms']} ms")
    for event in span.events:
        print(f"  {(event.at - span.start) / 1e6:8.3f} ms  {event.name}  {event.attributes.get('tta.view.name', '')}")
    return (
        0 if verdict("difference of exemplar and trace", abs(value * 1e3 - found["tta.elapsed_ms"]), 1e-3, " ms") else 1
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("step").set_defaults(run=step)
    loaded = commands.add_parser("load")
    loaded.add_argument("--rounds", type=int, default=6)
    loaded.add_argument("--seconds", type=float, default=4)
    loaded.set_defaults(run=load)
    scraped = commands.add_parser("exemplars")
    scraped.add_argument("--prometheus", default="prometheus", help="the binary")
    scraped.set_defaults(run=exemplars)
    args = parser.parse_args()
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
