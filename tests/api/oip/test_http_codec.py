"""Infer bodies over HTTP: bytes and JSON mean the same."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.binary_tensors import (
    PIXELS,
    decode,
    encode,
    image_input,
    images_of,
    in_bytes,
    pixel_input,
    read,
    refused,
    sized,
)
from tta_server.api.oip.http_codec import Envelope, read_header_length, read_infer, read_raw, reject_query, write_infer
from tta_server.api.oip.semantics import InferRequest, read_parameters
from tta_server.api.oip.tensors import OutputTensor, read_images
from tta_server.errors import InvalidInput
from tta_server.tasks.base import texts

# ---- responses ----


def arrays_of(dtype: type) -> st.SearchStrategy[np.ndarray]:
    shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
    if dtype is object:
        return arrays.arrays(np.object_, shapes, elements=st.text(), fill=st.nothing())
    elements = arrays.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    return arrays.arrays(dtype, shapes, elements=elements)


TENSORS = st.one_of(*(arrays_of(kind) for kind in (bool, np.uint8, np.uint16, np.int32, np.int64, np.float32, object)))


@given(st.dictionaries(st.text(min_size=1), st.tuples(TENSORS, st.booleans()), max_size=5), st.text())
def test_an_answer_read_by_the_extension_has_the_tensors(
    tensors: dict[str, tuple[np.ndarray, bool]], identity: str
) -> None:
    envelope = Envelope(
        InferRequest("toy", "", [], id=identity), {name: binary for name, (_, binary) in tensors.items()}
    )
    outputs = [OutputTensor(name, array) for name, (array, _) in tensors.items()]
    body, length = write_infer(envelope, "7", outputs, {"tta_views": 2})
    payload, found = decode(body, length)
    assert payload.get("id", "") == identity
    assert (payload["model_name"], payload["model_version"], payload["parameters"]) == ("toy", "7", {"tta_views": 2})
    assert list(found) == list(tensors)
    for name, (array, _) in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert (length is None) == (not any(binary for _, binary in tensors.values()))


@given(TENSORS, st.booleans())
def test_unnamed_outputs_follow_binary_data_output(array: np.ndarray, rest: bool) -> None:
    envelope = Envelope(InferRequest("toy", "", []), {"OTHER": not rest}, rest)
    body, length = write_infer(envelope, "1", [OutputTensor("T", array)], {})
    assert (length is not None) == rest
    np.testing.assert_array_equal(decode(body, length)[1]["T"], array)


def test_parameters_that_json_can_not_hold_are_left_out() -> None:
    body, _ = write_infer(
        Envelope(InferRequest("toy", "", []), {}), "1", [], {"a": float("inf"), "b": float("nan"), "c": 1.5}
    )
    assert decode(body, None)[0]["parameters"] == {"c": 1.5}


def test_tritons_own_client_reads_the_answer() -> None:
    http = pytest.importorskip("tritonclient.http")
    tensors = {"LABEL": texts(["é", ""]).reshape(2, 1), "BOXES": np.zeros((2, 0, 4), np.float32)}
    tensors |= {"VALUES": np.array([[1.5, -2]], np.float32), "SEEN": np.array([[True, False]])}
    envelope = Envelope(InferRequest("toy", "", []), {"LABEL": True, "BOXES": True, "VALUES": False, "SEEN": True})
    body, length = write_infer(envelope, "1", [OutputTensor(*tensor) for tensor in tensors.items()], {})
    result = http.InferResult.from_response_body(body, False, length)
    for name in ("BOXES", "VALUES", "SEEN"):
        np.testing.assert_array_equal(result.as_numpy(name), tensors[name])
    assert [text.decode() for text in result.as_numpy("LABEL").ravel()] == ["é", ""]


# ---- by hand ----


def test_a_small_request_by_hand() -> None:
    head = (
        b'{"id":"7","inputs":[{"name":"PIXELS","datatype":"UINT8","shape":[1,2,3],"parameters":{"binary_data_size":6}}],'
        b'"outputs":[{"name":"LABEL","parameters":{"binary_data":true}},{"name":"INDEX"}],'
        b'"parameters":{"timeout":5000,"tta_max_views":2}}'
    )
    body = head + b"\x00\x01\x02\x03\x04\xff"
    envelope = read_infer(body, read_header_length(str(len(head)), len(body)), "toy", "1")
    request = envelope.request
    assert (request.model, request.version, request.id) == ("toy", "1", "7")
    assert request.outputs == ["LABEL", "INDEX"]
    assert envelope.binary == {"LABEL": True, "INDEX": False}
    assert read_parameters(request.parameters).budget_ms == 5
    assert read_parameters(request.parameters).max_views == 2
    (image,) = read_images(request.inputs, 1)
    assert image.tolist() == [[[0, 1, 2], [3, 4, 255]]]


def test_two_encoded_images_by_hand() -> None:
    head = b'{"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[2,1],"parameters":{"binary_data_size":11}}]}'
    body = head + b"\x03\x00\x00\x00abc" + b"\x00\x00\x00\x00"
    assert images_of(body, len(head)) == [b"abc", b""]


def test_a_small_answer_by_hand() -> None:
    envelope = Envelope(InferRequest("toy", "", [], id="7"), {"LABEL": True, "INDEX": False, "P": True})
    outputs = [
        OutputTensor("LABEL", texts(["é"])[None]),
        OutputTensor("INDEX", np.array([[258]], np.int32)),
        OutputTensor("P", np.array([[1, -2]], np.float32)),
    ]
    body, length = write_infer(envelope, "2", outputs, {"tta_views": 1, "tta_stop": "all_views"})
    head = (
        b'{"id":"7","model_name":"toy","model_version":"2","parameters":{"tta_views":1,"tta_stop":"all_views"},'
        b'"outputs":[{"name":"LABEL","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":6}},'
        b'{"name":"INDEX","datatype":"INT32","shape":[1,1],"data":[258]},'
        b'{"name":"P","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    )
    assert length == len(head)
    assert body == head + b"\x02\x00\x00\x00\xc3\xa9" + b"\x00\x00\x80\x3f\x00\x00\x00\xc0"


def test_a_raw_body_is_one_image() -> None:
    envelope = read_raw(b"\xff\xd8whatever", "toy", "1", "*/*")
    assert read_images(envelope.request.inputs, 1) == [b"\xff\xd8whatever"]
    assert envelope.binary_default
    assert not read_raw(b"", "toy", "1", "application/json, */*").binary_default


@pytest.mark.parametrize("where", ["beside", "parameters"])
def test_an_option_of_a_tensor_is_refused(where: str) -> None:
    option = {"tta_max_views": 1}
    entry = image_input(b"x") | (option if where == "beside" else {"parameters": option})
    sentence = "tta_max_views is given with the tensor IMAGE; put options into the parameters of the request"
    assert refused(encode([entry])[0]) == sentence


def test_a_query_of_a_json_request_is_refused() -> None:
    reject_query([])
    with pytest.raises(InvalidInput, match=r"unknown key 'max_views' in the query .* as tta_policy, tta_max_views"):
        reject_query(["max_views"])


# ---- requests: all forms mean the same ----


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.booleans())
def test_encoded_images_in_bytes_and_in_json_are_the_same(images: list[bytes], column: bool) -> None:
    entry = image_input(*images)
    if column:
        entry["shape"] = [len(images), 1]
    framed = sized(images)
    assert images_of(*encode([entry])) == images
    assert images_of(*encode([in_bytes(entry, len(framed))], framed)) == images


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3))
def test_encoded_images_may_be_nested_as_their_shape_is(images: list[bytes]) -> None:
    entry = image_input(*images)
    nested = {**entry, "shape": [len(images), 1], "data": [[text] for text in entry["data"]]}
    assert images_of(*encode([nested])) == images


@given(PIXELS)
def test_pixels_in_bytes_in_json_nested_or_flat_are_the_same(pixels: np.ndarray) -> None:
    entry, data = pixel_input(pixels), pixels.tobytes()
    bodies = [
        encode([entry]),
        encode([pixel_input(pixels, pixels.tolist())]),
        encode([in_bytes(entry, len(data))], data),
    ]
    for body in bodies:
        np.testing.assert_array_equal(images_of(*body), pixels)


@given(PIXELS)
def test_pixels_of_one_image_need_no_batch_axis(pixels: np.ndarray) -> None:
    one = pixels[0]
    entry, data = pixel_input(one), one.tobytes()
    bodies = [encode([entry]), encode([in_bytes(entry, len(data))], data), encode([pixel_input(one, one.tolist())])]
    for body in bodies:
        (image,) = images_of(*body)
        np.testing.assert_array_equal(image, one)


@given(st.permutations(["INDEX", "LABEL", "PROBABILITIES", "RECEIPT"]))
def test_outputs_keep_the_requested_order(names: list[str]) -> None:
    body, _ = encode([image_input(b"x")], outputs=[{"name": name} for name in names])
    assert read(body).request.outputs == names


def test_inputs_take_their_bytes_in_their_order() -> None:
    entries = [
        {"name": name, "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}} for name in "ab"
    ]
    for order in (entries, entries[::-1]):
        inputs = read(*encode(order, b"1234")).request.inputs
        assert [(tensor.name, tensor.data) for tensor in inputs] == [
            (order[0]["name"], b"12"),
            (order[1]["name"], b"34"),
        ]


def test_bytes_and_json_may_be_mixed() -> None:
    entries = [
        {"name": "a", "datatype": "UINT8", "shape": [1], "data": [9]},
        {"name": "b", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
    ]
    assert [tensor.data for tensor in read(*encode(entries, b"12")).request.inputs] == [[9], b"12"]


@pytest.mark.parametrize(
    ("whole", "own", "binary"),
    [(None, None, False), (True, None, True), (None, True, True), (True, False, False), (False, True, True)],
)
def test_binary_data_overrides_binary_data_output(whole: bool | None, own: bool | None, binary: bool) -> None:
    requested = {"name": "LABEL", **({} if own is None else {"parameters": {"binary_data": own}})}
    parameters = {} if whole is None else {"binary_data_output": whole}
    envelope = read(encode([image_input(b"x")], outputs=[requested], parameters=parameters)[0])
    assert envelope.binary == {"LABEL": binary}
    assert envelope.binary_default == bool(whole)


def test_the_last_of_a_key_given_twice_counts() -> None:
    """As in most JSON parsers; RFC 8259 leaves it open."""
    body = json.dumps({"inputs": [image_input(b"x")]})[:-1] + ', "id": "a", "id": "b"}'
    assert read(body.encode()).request.id == "b"
