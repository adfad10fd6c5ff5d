"""Clients of every door at once, some of whom leave early: each gets the answers to its own images, in their order."""

import dataclasses

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from benchmarks import crowd
from benchmarks.crowd import Doors
from tests.support.serving import Server, until

WAYS = {"plain", "plain, streamed", "v2, JSON", "v2, bytes", "gRPC", "gRPC, streamed"}


def doors_of(server: Server) -> Doors:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return Doors((host, int(port)), server.grpc, server.process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_answer_reaches_somebody_else(server: Server, seed: int) -> None:
    """benchmarks/crowd.py in short."""
    before = len(server.lines["stderr"])
    tally = crowd.crowd(doors_of(server), 400, 8, seed)
    assert tally.wrong == []
    assert set(tally.answers) == WAYS
    assert tally.refused.total() == 0
    assert tally.left.total() > 10
    assert tally.answers.total() + tally.left.total() == 400
    assert not [line for line in server.lines["stderr"][before:] if "Traceback" in line]


def test_streams_that_are_left_are_no_fault_of_the_server(server: Server) -> None:
    """Some as their answers are being written."""
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
    until(lambda: crowd.jobs_left(doors_of(server)) == 0)
    with server.client() as client:
        assert client.get("/livez").status_code == 200
    assert server.lines["stderr"][before:] == []


def test_an_answer_to_another_image_would_be_noticed(server: Server) -> None:
    """Over every door, and with two images of one request in the wrong order."""
    first, second = crowd.answered_alone(crowd.draw(2))
    swapped = [
        dataclasses.replace(first, expected=second.expected),
        dataclasses.replace(second, expected=first.expected),
    ]
    tally = crowd.Client(doors_of(server), swapped, 0).run(60)
    assert tally.answers.total() == 0
    assert {mistake.partition(", client")[0] for mistake in tally.wrong} == WAYS
    assert not np.allclose(first.expected, second.expected, atol=crowd.APART)
