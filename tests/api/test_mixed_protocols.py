"""Clients of all protocols at once, some of which disconnect: each gets the answers to its own images, in order."""

import dataclasses

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from benchmarks import isolation
from benchmarks.checking_client import MODEL, Client, Photo, inference
from benchmarks.server import Endpoints, jobs_left
from tests.support.serving import Server, until

PROTOCOLS = {"v1", "v1, streamed", "v2, JSON", "v2, binary", "gRPC", "gRPC, streamed"}


def endpoints_of(server: Server) -> Endpoints:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return Endpoints((host, int(port)), server.grpc, server.process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_each_client_gets_its_own_answers(server: Server, seed: int) -> None:
    """A short run of benchmarks/isolation.py."""
    before = len(server.lines["stderr"])
    tally = isolation.run_clients(endpoints_of(server), 400, 8, seed)
    assert tally.wrong == []
    assert set(tally.answers) == PROTOCOLS
    assert tally.refused.total() == 0
    assert tally.left.total() > 10
    assert tally.answers.total() + tally.left.total() == 400
    assert not [line for line in server.lines["stderr"][before:] if "Traceback" in line]


def test_disconnected_streams_are_not_logged_as_server_errors(server: Server) -> None:
    """Some disconnect while their answers are written."""
    before = len(server.lines["stderr"])
    photos = [Photo(image, np.empty(0, np.float32)) for image in isolation.draw(5)]
    with grpc.insecure_channel(server.grpc) as channel:
        open_stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        for _ in range(100):
            stream = open_stream(inference("left", [photo]).as_message(MODEL) for photo in photos)
            next(stream)
            stream.cancel()
    until(lambda: jobs_left(endpoints_of(server)) == 0)
    with server.client() as client:
        assert client.get("/livez").status_code == 200
    assert server.lines["stderr"][before:] == []


def test_the_check_detects_answers_to_other_images(server: Server) -> None:
    """Over every protocol, and with two images of one request in the wrong order."""
    first, second = isolation.answered_alone(isolation.draw(2))
    swapped = [
        dataclasses.replace(first, expected=second.expected),
        dataclasses.replace(second, expected=first.expected),
    ]
    tally = Client(endpoints_of(server), swapped, 0).run(60)
    assert tally.answers.total() == 0
    assert {mistake.partition(", client")[0] for mistake in tally.wrong} == PROTOCOLS
    assert not np.allclose(first.expected, second.expected, atol=isolation.APART)
