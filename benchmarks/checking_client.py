"""A client that sends requests over all protocols, leaves some of them early, and checks every answer it gets."""

import contextlib
import http.client
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.server import Endpoints
from benchmarks.v2_requests import Inference, Request, stream, unary

MODEL = "cifar10"
VIEWS = 2
BUDGET_MS = 10_000
TOLERANCE = 1e-5
"""Largest difference between two answers for one image: the last bits depend on the batch."""
LEAVING = 0.08
TIMEOUT = 60.0
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


@dataclass(frozen=True)
class Photo:
    """An image file, and the probabilities that the model gives it alone."""

    encoded: bytes
    expected: NDArray[np.float32]


@dataclass
class Tally:
    """Counts by protocol, and a sentence for each wrong answer."""

    answers: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.answers + other.answers, self.refused + other.refused, self.left + other.left, self.wrong + other.wrong
        )


class Refused(Exception):
    """The server is overloaded."""


class Wrong(Exception):
    """The answer does not belong to the request."""


class Client:
    """One client: its photos, its connections, its random generator."""

    def __init__(self, endpoints: Endpoints, photos: Sequence[Photo], seed: int) -> None:
        self._endpoints = endpoints
        self._photos = photos
        self._random = random.Random(seed)
        self._name = f"client-{seed}"
        self._sent = 0
        self._http = http.client.HTTPConnection(*endpoints.http, timeout=TIMEOUT)
        self._channel = grpc.insecure_channel(endpoints.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer, self._stream = unary(self._channel), stream(self._channel)

    def run(self, requests: int) -> Tally:
        tally = Tally()
        for _ in range(requests):
            protocol, ask, leave = self._random.choice(self._protocols())
            photos = self._random.choices(self._photos, k=self._random.randint(1, 3))
            self._sent += 1
            name = f"{self._name}.{self._sent}"
            if self._random.random() < LEAVING:
                leave(name, photos)
                tally.left[protocol] += 1
                continue
            try:
                ask(name, photos)
                tally.answers[protocol] += 1
            except Refused:
                tally.refused[protocol] += 1
            except Wrong as mistake:
                tally.wrong.append(f"{protocol}, {name}: {mistake}")
        self._http.close()
        self._channel.close()
        return tally

    def _protocols(self) -> list[tuple[str, Callable[..., None], Callable[..., None]]]:
        """Name, how to ask, how to leave early."""
        return [
            ("v1", self._v1, self._leave_v1),
            ("v1, streamed", self._v1_streamed, self._leave_v1),
            ("v2, JSON", self._v2_json, self._leave_v2),
            ("v2, binary", self._v2_binary, self._leave_v2),
            ("gRPC", self._grpc, self._leave_grpc),
            ("gRPC, streamed", self._grpc_streamed, self._leave_grpc_stream),
        ]

    def _v1(self, name: str, photos: Sequence[Photo]) -> None:
        body = self._post(PREDICT, photos[0].encoded, {"X-Request-Id": name})
        _check_v1(name, json.loads(body), photos[0])

    def _v1_streamed(self, name: str, photos: Sequence[Photo]) -> None:
        headers = {"X-Request-Id": name, "Accept": "text/event-stream"}
        events = self._post(PREDICT, photos[0].encoded, headers).decode().strip().split("\n\n")
        if not events[-1].startswith("event: answer\ndata: "):
            raise Wrong(f"the stream ends with {events[-1][:100]}")
        _check_v1(name, json.loads(events[-1].partition("data: ")[2]), photos[0])

    def _v2_json(self, name: str, photos: Sequence[Photo]) -> None:
        answer = json.loads(self._post(INFER, *inference(name, photos).as_json()))
        _same("id", answer["id"], name)
        (output,) = answer["outputs"]
        _check(output["data"], photos)

    def _v2_binary(self, name: str, photos: Sequence[Photo]) -> None:
        body = self._post(INFER, *binary(name, photos))
        header, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        _same("id", header["id"], name)
        _check(np.frombuffer(body[end:], "<f4"), photos)

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Returns the answer's body; raises Refused, or Wrong for any other error."""
        self._http.request("POST", path, body, headers)
        reply = self._http.getresponse()
        found = reply.read()
        if reply.status in (429, 503):
            raise Refused
        if reply.status != 200:
            raise Wrong(f"{reply.status}: {found[:200]!r}")
        return found

    def _grpc(self, name: str, photos: Sequence[Photo]) -> None:
        try:
            answer = self._infer(inference(name, photos).as_message(MODEL), timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise _refusal(error) from error
        _check_message(name, answer, photos)

    def _grpc_streamed(self, name: str, photos: Sequence[Photo]) -> None:
        """One request a photo; their answers come in any order."""
        pending = {f"{name}.{number}": photo for number, photo in enumerate(photos)}
        requests = [inference(own, [photo]).as_message(MODEL) for own, photo in pending.items()]
        try:
            for response in self._stream(iter(requests), timeout=TIMEOUT):
                if response.error_message:
                    raise Wrong(response.error_message)
                answer = response.infer_response
                if answer.parameters["triton_final_response"].bool_param:
                    _check_message(answer.id, answer, [pending.pop(answer.id)])
        except KeyError as error:
            raise Wrong(f"an answer to {error}, which was not asked") from error
        except grpc.RpcError as error:
            raise _refusal(error) from error
        _same("unanswered", len(pending), 0)

    def _leave_v1(self, name: str, photos: Sequence[Photo]) -> None:
        self._disconnect(PREDICT, photos[0].encoded, {"X-Request-Id": name})

    def _leave_v2(self, name: str, photos: Sequence[Photo]) -> None:
        self._disconnect(INFER, *binary(name, photos))

    def _disconnect(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Close the connection within the request, right after it, or after the first bytes of the answer."""
        lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        with socket.create_connection(self._endpoints.http, TIMEOUT) as link:
            moment = self._random.randrange(3)
            link.sendall(request[: self._random.randrange(1, len(request))] if moment == 0 else request)
            if moment == 2:
                link.recv(self._random.randint(1, 100))

    def _leave_grpc(self, name: str, photos: Sequence[Photo]) -> None:
        call = self._infer.future(inference(name, photos).as_message(MODEL), timeout=TIMEOUT)
        time.sleep(self._random.choice([0, 0.001, 0.005]))
        call.cancel()

    def _leave_grpc_stream(self, name: str, photos: Sequence[Photo]) -> None:
        requests = [inference(f"{name}.{i}", [photo]).as_message(MODEL) for i, photo in enumerate(photos)]
        call = self._stream(iter(requests), timeout=TIMEOUT)
        with contextlib.suppress(grpc.RpcError):
            next(call)
        call.cancel()


def inference(name: str, photos: Sequence[Photo]) -> Inference:
    return Inference([photo.encoded for photo in photos], name, PARAMETERS, "PROBABILITIES")


def binary(name: str, photos: Sequence[Photo]) -> Request:
    """The request as binary tensors, with the images' shape as [B]."""
    images = [photo.encoded for photo in photos]
    return Inference(images, name, PARAMETERS, "PROBABILITIES", (len(images),)).as_binary()


def _check_v1(name: str, answer: dict[str, Any], photo: Photo) -> None:
    receipt = answer["receipt"]
    _same("request_id", receipt["request_id"], name)
    _same("views", len(receipt["views"]), VIEWS)
    _check(answer["prediction"]["probabilities"], [photo])


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
