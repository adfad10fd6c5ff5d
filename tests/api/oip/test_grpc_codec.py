"""Infer requests and responses as gRPC messages: they mean what those of HTTP do."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.support.onnx_models import segmenter, write_model
from tests.support.patterns import noise
from tests.tasks.test_every_task import config
from tta_server.api.oip.grpc_codec import read_request, write_response
from tta_server.api.oip.http_codec import read_infer
from tta_server.api.oip.semantics import InferCommand, parse_request
from tta_server.application import Application
from tta_server.errors import InvalidInput
from tta_server.repository.loader import load_model
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.settings import Settings
from tta_server.views.geometry import Size

MAX_IMAGES = 4


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A ready application with a segmentation model and one slot."""
    settings = config("segmentation", {"size": "free"}, {"kind": "probabilities"})
    folder = write_model(tmp_path_factory.mktemp("models") / "toy", segmenter(), settings)
    ready = Application(
        Settings(models=folder.parent, slots=1, max_images_per_request=MAX_IMAGES), [load_model(folder)]
    )
    ready.warm()
    yield ready
    ready.close()


def as_message(request: dict[str, Any], raw: bool) -> Any:
    """The gRPC message of a JSON request."""
    message = pb.ModelInferRequest(model_name="toy", model_version="1", id=request.get("id", ""))
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for key, value in request.get("parameters", {}).items():
        setattr(message.parameters[key], fields[type(value)], value)
    for entry in request["inputs"]:
        tensor = message.inputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
        if raw:
            message.raw_input_contents.append(bytes(entry["data"]))
        else:
            tensor.contents.uint_contents.extend(entry["data"])
    for requested in request.get("outputs", []):
        message.outputs.add(name=requested["name"])
    return message


REQUESTS = st.fixed_dictionaries(
    {
        "inputs": st.tuples(st.integers(1, MAX_IMAGES), st.integers(1, 3), st.integers(1, 3)).map(
            lambda sides: [
                {
                    "name": "PIXELS",
                    "datatype": "UINT8",
                    "shape": [*sides, 3],
                    "data": noise(Size(sides[2], sides[0] * sides[1])).ravel().tolist(),
                }
            ]
        )
    },
    optional={
        "id": st.text(),
        "outputs": st.lists(st.sampled_from(["MASK", "AREA", "AGREEMENT", "RECEIPT"]), unique=True).map(
            lambda names: [{"name": name} for name in names]
        ),
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "timeout": st.integers(0, 2**40),
                "priority": st.integers(0, 5),
                "tta_policy": st.sampled_from(["plain", "d4"]),
                "tta_max_views": st.one_of(st.integers(1, 9), st.integers(1, 9).map(str)),
                "tta_min_views": st.one_of(st.integers(1, 9), st.just("all")),
                "other": st.one_of(st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text()),
            },
        ),
    },
)


@given(request=REQUESTS, raw=st.booleans())
def test_http_and_grpc_parse_to_the_same_request(application: Application, request: dict[str, Any], raw: bool) -> None:
    over_http = read_infer(json.dumps(request).encode(), None, "toy", "1").request
    over_grpc = read_request(as_message(request, raw))
    assert (over_http.id, list(over_http.outputs)) == (over_grpc.id, list(over_grpc.outputs))
    assert over_http.parameters == over_grpc.parameters
    first, second = parse_request(application, over_http), parse_request(application, over_grpc)
    assert (first.options, first.specs) == (second.options, second.specs)
    for one, other in zip(first.images, second.images, strict=True):
        np.testing.assert_array_equal(one, other)


def test_encoded_images_come_in_three_ways(application: Application) -> None:
    images = [b"abc", b"", b"\xff"]
    typed = pb.ModelInferRequest(model_name="toy")
    tensor = typed.inputs.add(name="IMAGE", datatype="BYTES", shape=[3, 1])
    tensor.contents.bytes_contents.extend(images)
    raw = pb.ModelInferRequest(model_name="toy")
    raw.inputs.add(name="IMAGE", datatype="BYTES", shape=[3])
    raw.raw_input_contents.append(b"".join(struct.pack("<I", len(image)) + image for image in images))
    for message in (typed, raw):
        assert list(parse_request(application, read_request(message)).images) == images


def with_classification(message: Any) -> None:
    message.outputs.add(name="MASK").parameters["classification"].int64_param = 1


def with_option(message: Any) -> None:
    message.inputs[0].parameters["tta_max_views"].int64_param = 1


def with_option_of_an_output(message: Any) -> None:
    message.outputs.add(name="MASK").parameters["tta_stop"].string_param = "all"


def with_shared_memory(message: Any) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"


MISTAKES: list[tuple[Callable[[Any], object], str]] = [
    (lambda m: m.raw_input_contents.append(b""), "raw_input_contents has 2 entries for 1 inputs"),
    (lambda m: m.ClearField("inputs"), "raw_input_contents has 1 entries for 0 inputs"),
    (lambda m: m.ClearField("raw_input_contents"), "declares 3 elements, but the data has 0"),
    (lambda m: m.raw_input_contents.__setitem__(0, b"1"), "PIXELS of shape [1, 1, 3] takes 3 bytes, not 1"),
    (
        lambda m: m.inputs[0].shape.__setitem__(0, -1),
        "is a list of up to 8 whole numbers of at least 0, not [-1, 1, 3]",
    ),
    (lambda m: setattr(m.inputs[0], "datatype", "FP32"), "PIXELS takes the datatype UINT8, not 'FP32'"),
    (
        lambda m: setattr(m.parameters["timeout"], "double_param", 1.5),
        "timeout takes a whole number of at least 0, not 1.5",
    ),
    (lambda m: m.parameters["timeout"].SetInParent(), "timeout takes a whole number of at least 0, not ''"),
    (with_shared_memory, "is not supported; send and receive whole tensors without it"),
    (with_option, "tta_max_views is given with the tensor PIXELS; put options into the parameters of the request"),
    (
        with_option_of_an_output,
        "tta_stop is given with the tensor MASK; put options into the parameters of the request",
    ),
    (with_classification, "is not supported; send and receive whole tensors without it"),
]


@pytest.mark.parametrize(("change", "reason"), MISTAKES, ids=[reason[:30] for _, reason in MISTAKES])
def test_an_invalid_message_is_refused(application: Application, change: Callable[[Any], object], reason: str) -> None:
    inputs = [{"name": "PIXELS", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}]
    message = as_message({"inputs": inputs}, True)
    change(message)
    with pytest.raises(InvalidInput) as caught:
        parse_request(application, read_request(message))
    assert reason in str(caught.value)


def answered(application: Application, command: InferCommand) -> list[Answer]:
    tickets = application.predictor.submit_all(command.model, command.images, command.options, Caller("me"))
    return [ticket.future.result() for ticket in tickets]


def test_a_grpc_answer_has_the_tensors_in_bytes(application: Application) -> None:
    message = as_message(
        {
            "id": "7",
            "inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [2, 1, 3], "data": [9, 0, 0, 0, 9, 0]}],
        },
        True,
    )
    command = parse_request(application, read_request(message), 10)
    response = write_response(command, message, answered(application, command), {"more": True})
    assert (response.model_name, response.model_version, response.id) == ("toy", "1", "7")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("MASK", "UINT8", [1, 2, 1]),
        ("AREA", "INT64", [1, 3]),
    ]
    assert list(response.raw_output_contents) == [b"\x00\x01", struct.pack("<3q", 1, 1, 0)]
    assert response.parameters["more"].bool_param is True
    assert response.parameters["tta_views"].int64_param == 1
