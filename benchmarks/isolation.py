"""Eight clients with images of their own, over every door at once: does an answer ever reach somebody else?

Each client knows beforehand what the model says of each of its images, asked alone and in this process, with as many
views. It sends its requests in ways picked at random, checks every answer against that, and now and then leaves: in
the middle of a body, with the answer on its way, or after a stream's first part. At the end nothing may be waiting.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2 as pb

from tta_server import load

MODELS = Path(__file__).parents[1] / "models"
MODEL = "cifar10"
VIEWS = 2
BUDGET_MS = 10_000
TOLERANCE = 1e-5
"""Between one answer's probabilities and another's to the same image: the last bits depend on the batch."""
APART = 100 * TOLERANCE
"""How far the answers to two images are apart at least, or a mistake would not be seen."""
LEAVERS = 0.08
IMAGES = 3
"""Of each client."""
PATIENCE = 60.0
SERVICE = "/inference.GRPCInferenceService/"
PREDICT = (
    f"/v1/models/{MODEL}/predict?stop=all&min_views=all&max_views={VIEWS}&budget_ms={BUDGET_MS}&include=probabilities"
)
INFER = f"/v2/models/{MODEL}/infer"
PARAMETERS: dict[str, str | int] = {
    "timeout": BUDGET_MS * 1000,
    "tta_stop": "all",
    "tta_min_views": "all",
    "tta_max_views": VIEWS,
}

Probabilities = NDArray[np.float32]


# ---- the server ----


@dataclass(frozen=True)
class Doors:
    """Where a server listens."""

    http: tuple[str, int]
    grpc: str
    pid: int


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[Doors]:
    """A real server on free ports, ready; interrupted at the end. What it says on stderr is shown."""
    command = [sys.executable, "-m", "tta_server", "serve", "--port", "0", "--grpc-port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready = next((line for line in process.stderr if line.startswith("ready")), None)
        if ready is None:
            raise SystemExit("the server did not start")
        threading.Thread(target=_show, args=(process.stderr,), daemon=True).start()
        words = ready.split()
        host, _, port = words[1].removeprefix("http://").partition(":")
        yield Doors((host, int(port)), f"{host}:{words[words.index('gRPC') + 3]}", process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stderr.write(f"server: {line}")


# ---- the clients ----


@dataclass(frozen=True)
class Photo:
    encoded: bytes
    expected: Probabilities


@dataclass
class Tally:
    """By way of asking."""

    answers: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.answers + other.answers, self.refused + other.refused, self.left + other.left, self.wrong + other.wrong
        )


class Refused(Exception):
    """The server said that it has too much to do."""


class Wrong(Exception):
    """An answer that is not the one to this request."""


def draw(count: int, seed: int = 0) -> list[bytes]:
    """Small images that differ in everything."""
    source = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = source.integers(0, 256, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((40, 36), Image.Resampling.BICUBIC).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


def answered_alone(images: Sequence[bytes]) -> list[Photo]:
    """With what the model says of each; raises where two answers are too near to tell them apart."""
    options: dict[str, Any] = {"stop": "all", "min_views": "all", "max_views": VIEWS, "include": ["probabilities"]}
    with load(MODELS / MODEL, slots=1) as model:
        answers = [model.predict(image, budget_ms=BUDGET_MS, **options).to_dict() for image in images]
    photos = [
        Photo(image, np.array(answer["prediction"]["probabilities"], np.float32))
        for image, answer in zip(images, answers, strict=True)
    ]
    for one, other in combinations(photos, 2):
        if np.abs(one.expected - other.expected).max() < APART:
            raise ValueError("two images have the same answer; draw others")
    return photos


def element(image: bytes) -> bytes:
    return struct.pack("<I", len(image)) + image


class Client:
    """One of the crowd: its photos, its connections, its dice."""

    def __init__(self, doors: Doors, photos: Sequence[Photo], seed: int) -> None:
        self._doors = doors
        self._photos = photos
        self._dice = random.Random(seed)
        self._name = f"client-{seed}"
        self._sent = 0
        self._http = http.client.HTTPConnection(*doors.http, timeout=PATIENCE)
        self._channel = grpc.insecure_channel(doors.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer = self._channel.unary_unary(
            f"{SERVICE}ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        self._stream = self._channel.stream_stream(
            f"{SERVICE}ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )

    def run(self, requests: int) -> Tally:
        tally = Tally()
        for _ in range(requests):
            way, ask, leave = self._dice.choice(self._ways())
            photos = self._dice.choices(self._photos, k=self._dice.randint(1, 3))
            self._sent += 1
            name = f"{self._name}.{self._sent}"
            if self._dice.random() < LEAVERS:
                leave(name, photos)
                tally.left[way] += 1
                continue
            try:
                ask(name, photos)
                tally.answers[way] += 1
            except Refused:
                tally.refused[way] += 1
            except Wrong as mistake:
                tally.wrong.append(f"{way}, {name}: {mistake}")
        self._http.close()
        self._channel.close()
        return tally

    def _ways(self) -> list[tuple[str, Callable[..., None], Callable[..., None]]]:
        return [
            ("plain", self._plain, self._leave_plain),
            ("plain, streamed", self._streamed, self._leave_plain),
            ("v2, JSON", self._json, self._leave_v2),
            ("v2, bytes", self._bytes, self._leave_v2),
            ("gRPC", self._grpc, self._leave_grpc),
            ("gRPC, streamed", self._grpc_streamed, self._leave_stream),
        ]

    # ---- plain ----

    def _plain(self, name: str, photos: Sequence[Photo]) -> None:
        body = self._post(PREDICT, photos[0].encoded, {"X-Request-Id": name})
        self._check_plain(name, json.loads(body), photos[0])

    def _streamed(self, name: str, photos: Sequence[Photo]) -> None:
        headers = {"X-Request-Id": name, "Accept": "text/event-stream"}
        events = self._post(PREDICT, photos[0].encoded, headers).decode().strip().split("\n\n")
        if not events[-1].startswith("event: answer\ndata: "):
            raise Wrong(f"the stream ends with {events[-1][:100]}")
        self._check_plain(name, json.loads(events[-1].partition("data: ")[2]), photos[0])

    def _check_plain(self, name: str, told: dict[str, Any], photo: Photo) -> None:
        receipt = told["receipt"]
        _same("request_id", receipt["request_id"], name)
        _same("views", len(receipt["views"]), VIEWS)
        _check(told["prediction"]["probabilities"], [photo])

    # ---- v2 over HTTP ----

    def _json(self, name: str, photos: Sequence[Photo]) -> None:
        told = json.loads(self._post(INFER, *as_json(name, photos)))
        _same("id", told["id"], name)
        (output,) = told["outputs"]
        _check(output["data"], photos)

    def _bytes(self, name: str, photos: Sequence[Photo]) -> None:
        body = self._post(INFER, *as_bytes(name, photos))
        told, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        _same("id", told["id"], name)
        _check(np.frombuffer(body[end:], "<f4"), photos)

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """The answer's body; raises Refused, or Wrong for any other error."""
        self._http.request("POST", path, body, headers)
        reply = self._http.getresponse()
        found = reply.read()
        if reply.status in (429, 503):
            raise Refused
        if reply.status != 200:
            raise Wrong(f"{reply.status}: {found[:200]!r}")
        return found

    # ---- gRPC ----

    def _grpc(self, name: str, photos: Sequence[Photo]) -> None:
        try:
            _check_message(name, self._infer(as_message(name, photos), timeout=PATIENCE), photos)
        except grpc.RpcError as error:
            raise _refusal(error) from error

    def _grpc_streamed(self, name: str, photos: Sequence[Photo]) -> None:
        """Each photo is a request of its own; their answers come in any order."""
        asked = {f"{name}.{number}": photo for number, photo in enumerate(photos)}
        requests = [as_message(own, [photo]) for own, photo in asked.items()]
        try:
            for response in self._stream(iter(requests), timeout=PATIENCE):
                if response.error_message:
                    raise Wrong(response.error_message)
                answer = response.infer_response
                if answer.parameters["triton_final_response"].bool_param:
                    _check_message(answer.id, answer, [asked.pop(answer.id)])
        except KeyError as error:
            raise Wrong(f"an answer to {error}, which was not asked") from error
        except grpc.RpcError as error:
            raise _refusal(error) from error
        _same("unanswered", len(asked), 0)

    # ---- leaving ----

    def _leave_plain(self, name: str, photos: Sequence[Photo]) -> None:
        self._hang_up(PREDICT, photos[0].encoded, {"X-Request-Id": name})

    def _leave_v2(self, name: str, photos: Sequence[Photo]) -> None:
        self._hang_up(INFER, *as_bytes(name, photos))

    def _hang_up(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """In the middle of the request, or right after it, or with the answer begun."""
        lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        with socket.create_connection(self._doors.http, PATIENCE) as link:
            mood = self._dice.randrange(3)
            link.sendall(request[: self._dice.randrange(1, len(request))] if mood == 0 else request)
            if mood == 2:
                link.recv(self._dice.randint(1, 100))

    def _leave_grpc(self, name: str, photos: Sequence[Photo]) -> None:
        call = self._infer.future(as_message(name, photos), timeout=PATIENCE)
        time.sleep(self._dice.choice([0, 0.001, 0.005]))
        call.cancel()

    def _leave_stream(self, name: str, photos: Sequence[Photo]) -> None:
        requests = [as_message(f"{name}.{number}", [photo]) for number, photo in enumerate(photos)]
        call = self._stream(iter(requests), timeout=PATIENCE)
        with contextlib.suppress(grpc.RpcError):
            next(call)
        call.cancel()


def as_json(name: str, photos: Sequence[Photo]) -> tuple[bytes, dict[str, str]]:
    """Body and headers."""
    data = [base64.b64encode(photo.encoded).decode() for photo in photos]
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [len(photos), 1], "data": data}
    told = {"id": name, "parameters": PARAMETERS, "inputs": [image], "outputs": [{"name": "PROBABILITIES"}]}
    return json.dumps(told).encode(), {}


def as_bytes(name: str, photos: Sequence[Photo]) -> tuple[bytes, dict[str, str]]:
    """Body and headers; the answer comes in bytes too."""
    data = b"".join(element(photo.encoded) for photo in photos)
    size = {"binary_data_size": len(data)}
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [len(photos)], "parameters": size}
    output = {"name": "PROBABILITIES", "parameters": {"binary_data": True}}
    told = {"id": name, "parameters": PARAMETERS, "inputs": [image], "outputs": [output]}
    head = json.dumps(told).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def as_message(name: str, photos: Sequence[Photo]) -> Any:
    request = pb.ModelInferRequest(model_name=MODEL, id=name)
    for key, value in PARAMETERS.items():
        setattr(request.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[len(photos), 1])
    request.outputs.add(name="PROBABILITIES")
    request.raw_input_contents.append(b"".join(element(photo.encoded) for photo in photos))
    return request


def _check_message(name: str, answer: Any, photos: Sequence[Photo]) -> None:
    _same("id", answer.id, name)
    (raw,) = answer.raw_output_contents
    _check(np.frombuffer(raw, "<f4"), photos)


def _check(found: Any, photos: Sequence[Photo]) -> None:
    """Raises Wrong unless these are the photos' probabilities, in their order."""
    expected = np.concatenate([photo.expected for photo in photos])
    found = np.asarray(found, np.float32).ravel()
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        raise Wrong(f"probabilities {found.round(4)} instead of {expected.round(4)}")


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{what} is {found!r} instead of {expected!r}")


def _refusal(error: grpc.RpcError) -> Exception:
    busy = error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    return Refused() if busy else Wrong(f"{error.code().name}: {error.details()}")


# ---- the crowd ----


def crowd(doors: Doors, requests: int, clients: int, seed: int) -> Tally:
    """So many requests in all; returns when the server has nothing left to do."""
    photos = answered_alone(draw(clients * IMAGES, seed))
    own = [photos[first : first + IMAGES] for first in range(0, len(photos), IMAGES)]
    people = [Client(doors, mine, seed * clients + number) for number, mine in enumerate(own)]
    with ThreadPoolExecutor(clients) as threads:
        runs = [threads.submit(person.run, requests // clients) for person in people]
        tally = sum((run.result() for run in runs), Tally())
    end = time.monotonic() + PATIENCE
    while jobs_left(doors):
        if time.monotonic() > end:
            tally.wrong.append("some jobs are never settled")
            break
        time.sleep(0.01)
    return tally


def jobs_left(doors: Doors) -> float:
    link = http.client.HTTPConnection(*doors.http, timeout=PATIENCE)
    link.request("GET", "/metrics")
    lines = link.getresponse().read().decode().splitlines()
    link.close()
    return next(float(line.split()[1]) for line in lines if line.startswith("tta_jobs "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with served("--models", str(MODELS)) as doors:
        start = time.perf_counter()
        tally = crowd(doors, args.requests, args.clients, args.seed)
        seconds = time.perf_counter() - start
    table = Table("asked over", "answers", "refused", "left early")
    ways = sorted(tally.answers | tally.refused | tally.left)
    for way in ways:
        table.add_row(way, *(str(count[way]) for count in (tally.answers, tally.refused, tally.left)))
    totals = (tally.answers.total(), tally.refused.total(), tally.left.total())
    table.add_row("all", *map(str, totals), style="bold")
    console = Console()
    console.print(table)
    console.print(f"{args.clients} clients, {seconds:.0f} s, {sum(totals) / seconds:.0f} requests/s; "
                  f"wrong answers: {len(tally.wrong)} (target: 0)")  # fmt: skip
    for mistake in tally.wrong[:20]:
        console.print(mistake, markup=False)
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
