"""The requests of NVIDIA's perf_analyzer 2.51, byte for byte as recorded, and what it reads in the responses."""

import json
import struct
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.support.references import CLOTHING, MODELS
from tests.support.serving import PATIENCE, Server

IMAGE = (MODELS / "clothing" / "sample.jpg").read_bytes()
AGENT = {"User-Agent": "libcurl-agent/1.0", "Accept": "*/*"}
ASKED = ("INDEX", "LABEL", "PROBABILITIES")
COMPUTE = ("compute_input", "compute_infer", "compute_output")
METHOD = "/inference.GRPCInferenceService/"
PATHS = ("/v2/models/clothing", "/v2/models/clothing/versions/1")
"""Without -x, and with -x 1."""


def element(image: bytes = IMAGE) -> bytes:
    return struct.pack("<I", len(image)) + image


# ---- HTTP ----


def fetch(server: Server, path: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=AGENT), timeout=PATIENCE) as reply:
        assert reply.status == 200
        return json.load(reply)


def http_head(images: int, identity: str = "") -> bytes:
    """The JSON of an infer request, its keys in perf_analyzer's order and without spaces."""
    size, shape = len(element()) * images, [images, 1]
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ASKED]
    payload = {"id": identity, "inputs": [image], "outputs": outputs}
    return json.dumps(payload, separators=(",", ":")).encode()


def http_infer(server: Server, images: int = 1, identity: str = "", path: str = PATHS[0]) -> tuple[Any, bytes]:
    """The JSON of the response, and the bytes after it."""
    head = http_head(images, identity)
    headers = {
        **AGENT,
        "X-Request-Timeout-Ms": "10000",  # perf_analyzer sends none; a busy machine may miss the model's default
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }
    body = head + element() * images
    request = urllib.request.Request(f"{server.url}{path}/infer", body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        assert reply.status == 200
        answer, length = reply.read(), int(reply.headers["Inference-Header-Content-Length"])
    return json.loads(answer[:length]), answer[length:]


def check_shape(output: Any, images: int) -> None:
    shape, datatype = {
        "INDEX": ([images, 1], "INT32"),
        "LABEL": ([images, 1], "BYTES"),
        "PROBABILITIES": ([images, 10], "FP32"),
    }[output["name"]]
    assert (output["shape"], output["datatype"]) == (shape, datatype)


def check_tensors(images: int, index: bytes, label: bytes, scores: bytes) -> None:
    """Little-endian, row by row; strings follow their length."""
    indices, probabilities = np.frombuffer(index, "<i4"), np.frombuffer(scores, "<f4").reshape(images, 10)
    np.testing.assert_array_equal(indices, probabilities.argmax(axis=1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    names = [CLOTHING[i].encode() for i in indices]
    assert label == b"".join(element(name) for name in names)


def check_http(answer: Any, raw: bytes, images: int, identity: str) -> None:
    assert answer["model_name"] == "clothing"
    assert answer["model_version"] == "1"
    assert answer.get("id", "") == identity
    assert [output["name"] for output in answer["outputs"]] == list(ASKED)
    parts = []
    for output in answer["outputs"]:
        assert "data" not in output
        check_shape(output, images)
        size = output["parameters"]["binary_data_size"]
        assert type(size) is int
        parts.append(raw[:size])
        raw = raw[size:]
    assert raw == b""
    check_tensors(images, *parts)


@pytest.mark.parametrize("path", PATHS)
def test_metadata_has_what_requests_are_made_of(server: Server, path: str) -> None:
    payload = fetch(server, path)
    assert payload["name"] == "clothing"
    assert all(str(int(version)) == version for version in payload["versions"])
    (image,) = (tensor for tensor in payload["inputs"] if tensor["name"] == "IMAGE")
    assert (image["datatype"], image["shape"]) == ("BYTES", [-1, 1])
    assert {output["name"] for output in payload["outputs"]} >= set(ASKED)
    for tensor in [*payload["inputs"], *payload["outputs"]]:
        assert all(type(size) is int for size in tensor["shape"])


@pytest.mark.parametrize("path", PATHS)
def test_the_config_has_the_batch_size_and_optional_inputs(server: Server, path: str) -> None:
    payload = fetch(server, f"{path}/config")
    assert payload["name"] == "clothing"
    assert type(payload["max_batch_size"]) is int
    assert payload["max_batch_size"] >= 3
    assert {tensor["name"]: tensor["optional"] for tensor in payload["input"]} == {"IMAGE": True, "PIXELS": True}
    assert all(tensor["optional"] is True for tensor in payload["input"])
    assert payload["model_transaction_policy"]["decoupled"] is False
    metadata = fetch(server, path)
    for kind in ("input", "output"):
        sizes = {tensor["name"]: tensor["shape"] for tensor in metadata[f"{kind}s"]}
        assert {tensor["name"]: [-1, *tensor["dims"]] for tensor in payload[kind]} == sizes
    assert "sequence_batching" not in payload
    assert "ensemble_scheduling" not in payload


def test_the_server_lists_the_statistics_extension(server: Server) -> None:
    assert "statistics" in fetch(server, "/v2")["extensions"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_an_infer_request_with_an_empty_id_is_answered_in_bytes(server: Server, images: int, path: str) -> None:
    check_http(*http_infer(server, images, path=path), images, "")


def test_the_json_before_the_image_is_perf_analyzers() -> None:
    assert len(http_head(1)) == 283
    assert len(element()) == 24_282


@pytest.mark.parametrize("identity", ["0", "1", "4294967295"])
def test_an_id_comes_back(server: Server, identity: str) -> None:
    check_http(*http_infer(server, identity=identity), 1, identity)


# ---- gRPC ----


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def call(channel: grpc.Channel, method: str, request: Any, reply: type[Any]) -> Any:
    stub = channel.unary_unary(METHOD + method, type(request).SerializeToString, reply.FromString)
    return stub(request, timeout=PATIENCE)


def message(images: int = 1, identity: str = "", version: str = "") -> Any:
    request = pb.ModelInferRequest(model_name="clothing", model_version=version, id=identity)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[images, 1])
    for name in ASKED:
        request.outputs.add(name=name)
    request.raw_input_contents.append(element() * images)
    return request


def check_grpc(answer: Any, images: int, identity: str) -> None:
    assert (answer.model_name, answer.model_version, answer.id) == ("clothing", "1", identity)
    assert [output.name for output in answer.outputs] == list(ASKED)
    for output in answer.outputs:
        check_shape({"name": output.name, "shape": list(output.shape), "datatype": output.datatype}, images)
        assert not output.HasField("contents")
    assert len(answer.raw_output_contents) == len(ASKED)
    check_tensors(images, *answer.raw_output_contents)


def stream(channel: grpc.Channel, requests: list[Any]) -> list[Any]:
    opened = channel.stream_stream(
        f"{METHOD}ModelStreamInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    return list(opened(iter(requests), timeout=PATIENCE))


def is_final(response: Any) -> bool:
    parameter = response.infer_response.parameters["triton_final_response"]
    assert parameter.WhichOneof("parameter_choice") == "bool_param"
    return bool(parameter.bool_param)


@pytest.mark.parametrize("version", ["", "1"])
def test_descriptions_are_the_same_over_grpc(server: Server, channel: grpc.Channel, version: str) -> None:
    payload = call(
        channel,
        "ModelMetadata",
        pb.ModelMetadataRequest(name="clothing", version=version),
        pb.ModelMetadataResponse,
    )
    over_http = fetch(server, PATHS[0])
    assert (payload.name, list(payload.versions), payload.platform) == (
        "clothing",
        over_http["versions"],
        over_http["platform"],
    )
    for kind in ("inputs", "outputs"):
        found = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in getattr(payload, kind)]
        assert found == [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in over_http[kind]]
    config = call(
        channel,
        "ModelConfig",
        pb.ModelConfigRequest(name="clothing", version=version),
        pb.ModelConfigResponse,
    ).config
    assert config.max_batch_size == fetch(server, f"{PATHS[0]}/config")["max_batch_size"]
    assert all(tensor.optional for tensor in config.input)
    assert [list(tensor.dims) for tensor in config.input] == [[1], [-1, -1, 3]]
    assert not config.model_transaction_policy.decoupled
    extensions = call(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).extensions
    assert list(extensions) == fetch(server, "/v2")["extensions"]


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize(("images", "identity"), [(1, ""), (3, ""), (1, "0"), (1, "17")])
def test_a_message_with_its_parameter_is_answered_in_bytes(
    channel: grpc.Channel, images: int, identity: str, version: str
) -> None:
    answer = call(channel, "ModelInfer", message(images, identity, version), pb.ModelInferResponse)
    check_grpc(answer, images, identity)


def test_http_and_grpc_answer_with_the_same_bytes(server: Server, channel: grpc.Channel) -> None:
    """But for the last bits of the probabilities, which depend on the batches."""
    _, raw = http_infer(server, 2)
    answer = call(channel, "ModelInfer", message(2), pb.ModelInferResponse)
    assert raw.startswith(b"".join(answer.raw_output_contents[:2]))
    assert len(raw) == sum(map(len, answer.raw_output_contents))


@pytest.mark.parametrize("images", [1, 3])
def test_a_streams_last_answer_to_a_request_and_no_other_is_final(channel: grpc.Channel, images: int) -> None:
    """perf_analyzer counts the request as answered at the final response, and times the first."""
    names = [str(number) for number in range(5)]
    answers = stream(channel, [message(images, name) for name in names])
    assert {answer.infer_response.id for answer in answers} == set(names)
    for name in names:
        own = [answer for answer in answers if answer.infer_response.id == name]
        assert [is_final(answer) for answer in own] == [False] * (len(own) - 1) + [True]
        for answer in own:
            assert not answer.error_message
            check_grpc(answer.infer_response, images, name)


# ---- statistics ----


@dataclass(frozen=True)
class Reading:
    """What perf_analyzer reads from the statistics of one model."""

    counts: dict[str, int]
    ns: dict[str, int]
    inference_count: int
    execution_count: int

    def since(self, before: "Reading") -> "Reading":
        return Reading(
            {name: count - before.counts[name] for name, count in self.counts.items()},
            {name: ns - before.ns[name] for name, ns in self.ns.items()},
            self.inference_count - before.inference_count,
            self.execution_count - before.execution_count,
        )


def read_http(server: Server, path: str) -> Reading:
    (payload,) = fetch(server, f"{path}/stats")["model_stats"]
    assert payload["name"] == "clothing"
    assert int(payload["version"]) == 1, "perf_analyzer makes a number of it"
    stages = payload["inference_stats"]
    numbers = [number for stage in stages.values() for number in stage.values()]
    numbers += [payload["inference_count"], payload["execution_count"], payload["last_inference"]]
    for batch in payload["batch_stats"]:
        numbers += [batch["batch_size"], *(number for name in COMPUTE for number in batch[name].values())]
    assert {type(number) for number in numbers} == {int}, "no texts, as proto3's own JSON would have"
    return Reading(
        {name: stage["count"] for name, stage in stages.items()},
        {name: stage["ns"] for name, stage in stages.items()},
        payload["inference_count"],
        payload["execution_count"],
    )


def read_grpc(channel: grpc.Channel) -> Reading:
    request = pb.ModelStatisticsRequest(name="clothing")
    (payload,) = call(channel, "ModelStatistics", request, pb.ModelStatisticsResponse).model_stats
    assert (payload.name, int(payload.version)) == ("clothing", 1)
    names = [field.name for field in payload.inference_stats.DESCRIPTOR.fields]
    stages = {name: getattr(payload.inference_stats, name) for name in names}
    return Reading(
        {name: stage.count for name, stage in stages.items()},
        {name: stage.ns for name, stage in stages.items()},
        payload.inference_count,
        payload.execution_count,
    )


def check_window(window: Reading, requests: int) -> None:
    assert window.counts == {
        "success": requests,
        "fail": 0,
        "queue": requests,
        **dict.fromkeys(COMPUTE, requests),
        "cache_hit": 0,
        "cache_miss": 0,
    }
    for name in ("success", "queue", *COMPUTE):
        assert window.ns[name] > 0, name
    assert window.inference_count >= window.execution_count >= requests


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("images", [1, 3])
def test_each_window_of_a_run_over_http_counts_its_own_requests(server: Server, images: int, path: str) -> None:
    readings = [read_http(server, path)]
    for requests in (4, 7, 1):
        for _ in range(requests):
            check_http(*http_infer(server, images, path=path), images, "")
        readings.append(read_http(server, path))
    for (before, after), requests in zip(pairwise(readings), (4, 7, 1), strict=True):
        check_window(after.since(before), requests)


def infers_over_grpc(channel: grpc.Channel, images: int) -> None:
    check_grpc(call(channel, "ModelInfer", message(images), pb.ModelInferResponse), images, "")


def infers_in_a_stream(channel: grpc.Channel, images: int) -> None:
    assert is_final(stream(channel, [message(images)])[-1])


@pytest.mark.parametrize("infer", [infers_over_grpc, infers_in_a_stream])
@pytest.mark.parametrize("images", [1, 3])
def test_each_window_of_a_run_over_grpc_counts_its_own_requests(
    channel: grpc.Channel, infer: Callable[[grpc.Channel, int], None], images: int
) -> None:
    readings = [read_grpc(channel)]
    for requests in (4, 2):
        for _ in range(requests):
            infer(channel, images)
        readings.append(read_grpc(channel))
    for (before, after), requests in zip(pairwise(readings), (4, 2), strict=True):
        check_window(after.since(before), requests)


def test_http_and_grpc_have_the_same_statistics(server: Server, channel: grpc.Channel) -> None:
    infers_over_grpc(channel, 1)
    assert read_grpc(channel) == read_http(server, PATHS[0])
