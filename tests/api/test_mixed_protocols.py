"""Clients of all protocols at once, some of which disconnect: each gets the answers to its own images, in order."""

import dataclasses

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from benchmarks import crowd
from benchmarks.crowd import Doors
from tests.support.serving import Server, until

WAYS = {"plain", "plain, streamed", "v2, JSON", "v2, bytes", "gRPC", "gRPC, streamed"}


def addresses_of(server: Server) -> Doors:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return Doors((host, int(port)), server.grpc, server.process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_each_client_gets_its_own_answers(server: Server, seed: int) -> None:
    """A short run of benchmarks/crowd.py."""
    before = len(server.lines["stderr"])
    tally = crowd.crowd(addresses_of(server), 400, 8, seed)
    assert tally.wrong == []
    assert set(tally.answers) == WAYS
    assert tally.refused.total() == 0
    assert tally.left.total() > 10
    assert tally.answers.total() + tally.left.total() == 400
    assert not [line for line in server.lines["stderr"][before:] if "Traceback" in line]


def test_disconnected_streams_are_not_logged_as_server_errors(server: Server) -> None:
    """Some disconnect while their answers are written."""
    before = len(server.lines["stderr"])
    photos = [crowd.Photo(image, np.empty(0, np.float32)) for image in crowd.draw(5)]
    with grpc.insecure_channel(server.grpc) as channel:
        open_stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        for _ in range(100):
            stream = open_stream(crowd.as_message("left", [photo]) for photo in photos)
            next(stream)
            stream.cancel()
    until(lambda: crowd.jobs_left(addresses_of(server)) == 0)
    with server.client() as client:
        assert client.get("/livez").status_code == 200
    assert server.lines["stderr"][before:] == []


def test_the_check_detects_answers_to_other_images(server: Server) -> None:
    """Over every protocol, and with two images of one request in the wrong order."""
    first, second = crowd.answered_alone(crowd.draw(2))
    swapped = [
        dataclasses.replace(first, expected=second.expected),
        dataclasses.replace(second, expected=first.expected),
    ]
    tally = crowd.Client(addresses_of(server), swapped, 0).run(60)
    assert tally.answers.total() == 0
    assert {mistake.partition(", client")[0] for mistake in tally.wrong} == WAYS
    assert not np.allclose(first.expected, second.expected, atol=crowd.APART)
