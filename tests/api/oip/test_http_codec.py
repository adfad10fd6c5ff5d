"""Infer bodies over HTTP: bytes and JSON mean the same, and invalid ones are refused with their reason."""

import base64
import gzip
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tta_server.api.http_request import inflate
from tta_server.api.oip.http_codec import Envelope, read_header_length, read_infer, read_raw, reject_query, write_infer
from tta_server.api.oip.semantics import TTA_PARAMETERS, InferRequest, read_parameters
from tta_server.api.oip.tensors import OutputTensor, read_images
from tta_server.errors import InvalidInput, TooLarge, shown
from tta_server.tasks.base import texts

NUMPY = {"BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}
"""The protocol's datatypes, by hand."""


# ---- an independent reader and writer of the binary extension ----


def sized(texts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def unsized(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        assert len(data) >= 4 + length
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def decode(body: bytes, header_length: int | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A response's JSON, and its tensors by name; no bytes may be left over."""
    head, rest = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    payload = json.loads(head, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    tensors = {}
    for entry in payload["outputs"]:
        size = entry.get("parameters", {}).get("binary_data_size")
        assert ("data" in entry) == (size is None)
        tensors[entry["name"]] = _tensor(entry, None if size is None else rest[:size])
        rest = rest[size or 0 :]
    assert not rest
    return payload, tensors


def _tensor(entry: dict[str, Any], data: bytes | None) -> np.ndarray:
    shape = tuple(entry["shape"])
    if entry["datatype"] == "BYTES":
        elements = entry["data"] if data is None else [text.decode() for text in unsized(data)]
        return texts(elements).reshape(shape)
    dtype = np.dtype(NUMPY[entry["datatype"]])
    return (np.array(entry["data"], dtype) if data is None else np.frombuffer(data, dtype)).reshape(shape)


def encode(inputs: Sequence[dict[str, Any]], behind: bytes = b"", **more: Any) -> tuple[bytes, int | None]:
    """The body of a request, and the length of its JSON if bytes follow."""
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + behind, len(head) if behind else None


def image_input(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"name": "IMAGE", "datatype": "BYTES", "shape": [len(images)], "data": data}


def pixel_input(pixels: np.ndarray, data: Any = None) -> dict[str, Any]:
    listed = pixels.ravel().tolist() if data is None else data
    return {"name": "PIXELS", "datatype": "UINT8", "shape": list(pixels.shape), "data": listed}


def in_bytes(entry: dict[str, Any], size: Any) -> dict[str, Any]:
    rest = {key: value for key, value in entry.items() if key != "data"}
    return {**rest, "parameters": {"binary_data_size": size}}


def read(body: bytes, header_length: int | None = None) -> Envelope:
    return read_infer(body, header_length, "toy", "")


def images_of(body: bytes, header_length: int | None = None, max_images: int = 8) -> list[Any]:
    return read_images(read(body, header_length).request.inputs, max_images)


PIXELS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3, st.just(3)))


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


# ---- refusals: the length of the JSON ----


@pytest.mark.parametrize(
    "value", ["-1", "abc", "", " 5", "+5", "5.0", "0x5", "１", "٣", "²", str(2**63), "11", "9" * 5000]
)
def test_an_invalid_header_length_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_header_length(value, 10)
    sentence = check(str(caught.value))
    assert sentence.startswith(
        "Inference-Header-Content-Length takes the length of the JSON in a body of 10 bytes, not "
    )
    assert repr(value[:64]) in sentence


@pytest.mark.parametrize(("value", "length"), [(None, None), ("0", 0), ("10", 10), ("007", 7)])
def test_a_length_is_read(value: str | None, length: int | None) -> None:
    assert read_header_length(value, 10) == length


# ---- refusals: the JSON ----


def check(sentence: str) -> str:
    """Check that it is one short sentence."""
    assert 10 < len(sentence) <= 400, sentence
    assert sentence.isprintable(), sentence
    assert not re.search(r"Traceback|numpy|pydantic|object at 0x|\.py\b", sentence)
    return sentence


def parse(body: bytes, header_length: int | None) -> None:
    read_parameters(read(body, header_length).request.parameters)
    images_of(body, header_length)


def refused(body: bytes, header_length: int | None = None) -> str:
    """The sentence of the refusal of a request, its parameters read too."""
    with pytest.raises(InvalidInput) as caught:
        parse(body, header_length)
    return check(str(caught.value))


UNREADABLE = {
    "empty": b"",
    "blank": b"  ",
    "truncated": b'{"inputs": [',
    "two objects": b"{}{}",
    "single quotes": b"{'inputs': []}",
    "a comment": b"{} // x",
    "comma at the end": b'{"inputs": [],}',
    "bad UTF-8": b'{"id": "\xff\xfe"}',
    "cut UTF-8": b'{"id": "\xc3"}',
    "a surrogate": b'{"id": "\xed\xa0\x80"}',
    "half a pair": b'{"id": "\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"inputs": []}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "deep and closed": b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a long number": b'{"id": ' + b"1" * 5000 + b"}",
    "a null byte": b'{"id": "\0"}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_invalid_json_is_refused_with_its_place(body: bytes) -> None:
    sentence = refused(body)
    assert re.fullmatch(r"the body is not JSON: [a-zA-Z0-9' -]+ \(line 1, column \d+\)", sentence)


@pytest.mark.parametrize("body", [b"[]", b"[1, 2]", b"null", b"3", b'"inputs"', b"true", b"NaN", b"[[[[]]]]"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body).startswith("the body is an object in JSON, not ")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"id": 7}, "id takes a string, not 7"),
        ({"id": ["a"]}, 'id takes a string, not ["a"]'),
        ({"id": {}}, "id takes a string, not {}"),
        ({"parameters": []}, "parameters is an object in JSON, not []"),
        ({"parameters": "timeout"}, "parameters is an object in JSON, not 'timeout'"),
        (
            {"parameters": {"tta_policy": ["identity"]}},
            "the parameter 'tta_policy' takes a string, a number, true or false, not [\"identity\"]",
        ),
        ({"parameters": {"x": None}}, "the parameter 'x' takes a string, a number, true or false, not null"),
        ({"parameters": {"x": {"y": 1}}}, "the parameter 'x' takes a string, a number, true or false, not {\"y\": 1}"),
        ({"parameters": {"timeout": -1}}, "timeout takes a whole number of at least 0, not -1"),
        ({"parameters": {"timeout": 1.5}}, "timeout takes a whole number of at least 0, not 1.5"),
        ({"parameters": {"timeout": True}}, "timeout takes a whole number of at least 0, not true"),
        ({"parameters": {"timeout": "5"}}, "timeout takes a whole number of at least 0, not '5'"),
        ({"parameters": {"timeout": float("nan")}}, "timeout takes a whole number of at least 0, not NaN"),
        ({"parameters": {"priority": "high"}}, "priority takes a whole number of at least 0, not 'high'"),
        (
            {"parameters": {"tta_views": 2}},
            f"unknown parameter 'tta_views'; known: {', '.join(TTA_PARAMETERS)}",
        ),
        (
            {"tta_max_views": 1},
            "tta_max_views is given beside the inputs; put options into the parameters of the request",
        ),
        (
            {"outputs": [{"name": "L", "tta_stop": "all"}]},
            "tta_stop is given with the tensor L; put options into the parameters of the request",
        ),
        (
            {"outputs": [{"name": "L", "parameters": {"tta_stop": "all"}}]},
            "tta_stop is given with the tensor L; put options into the parameters of the request",
        ),
        ({"outputs": {}}, "outputs takes a list of tensors, not {}"),
        ({"outputs": ["LABEL"]}, "an entry of outputs is an object in JSON, not 'LABEL'"),
        ({"outputs": [{}]}, "the name of a tensor is a string, not null"),
        ({"outputs": [{"name": 3}]}, "the name of a tensor is a string, not 3"),
        ({"outputs": [{"name": "LABEL"}, {"name": "LABEL"}]}, "an output is requested twice"),
        ({"outputs": [{"name": "L", "parameters": []}]}, "parameters is an object in JSON, not []"),
        (
            {"outputs": [{"name": "L", "parameters": {"classification": 3}}]},
            "classification, a parameter of L, is not supported; send and receive whole tensors without it",
        ),
        (
            {"outputs": [{"name": "L", "parameters": {"shared_memory_region": "r"}}]},
            "shared_memory_region, a parameter of L, is not supported; send and receive whole tensors without it",
        ),
    ],
)
def test_invalid_fields_beside_the_inputs_are_refused(more: dict[str, Any], sentence: str) -> None:
    assert refused(encode([image_input(b"x")], **more)[0]) == sentence


def test_null_counts_as_left_out() -> None:
    payload = {"id": None, "parameters": None, "outputs": None, "inputs": [{**image_input(b"x"), "parameters": None}]}
    request = read_infer(json.dumps(payload).encode(), None, "toy", "").request
    assert (request.id, request.parameters, request.outputs, len(request.inputs)) == ("", {}, [], 1)


@pytest.mark.parametrize("value", ["false", 1, 0, "no"])
def test_a_boolean_is_true_or_false(value: object) -> None:
    assert refused(encode([image_input(b"x")], parameters={"binary_data_output": value})[0]).startswith(
        "binary_data_output takes true or false, not"
    )
    requested = {"name": "LABEL", "parameters": {"binary_data": value}}
    assert refused(encode([image_input(b"x")], outputs=[requested])[0]).startswith(
        "binary_data takes true or false, not"
    )


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "inputs takes a list of tensors, not {}"),
        (None, "a request takes one input, IMAGE or PIXELS, not 0: none"),
        ([], "a request takes one input, IMAGE or PIXELS, not 0: none"),
        ([3], "an entry of inputs is an object in JSON, not 3"),
        ([[]], "an entry of inputs is an object in JSON, not []"),
        ([{}], "the name of a tensor is a string, not null"),
        ([image_input(b"x")] * 2, "a request takes one input, IMAGE or PIXELS, not 2: IMAGE, IMAGE"),
        (
            [{**image_input(b"x"), "name": "image"}],
            "unknown input 'image'; inputs are IMAGE (BYTES) and PIXELS (UINT8)",
        ),
        ([{**image_input(b"x"), "datatype": "UINT8"}], "IMAGE takes the datatype BYTES, not 'UINT8'"),
        ([{**image_input(b"x"), "datatype": 8}], "the datatype of IMAGE is a string, not 8"),
        ([{**image_input(b"x"), "data": "abc"}], "IMAGE has neither data, a list, nor binary_data_size"),
        ([{**image_input(b"x"), "data": {}}], "IMAGE has neither data, a list, nor binary_data_size"),
        ([{**image_input(b"x"), "data": None}], "IMAGE has neither data, a list, nor binary_data_size"),
        ([{**image_input(b"x"), "parameters": [3]}], "parameters is an object in JSON, not [3]"),
        (
            [{**image_input(b"x"), "parameters": {"shared_memory_region": "r"}}],
            "shared_memory_region, a parameter of IMAGE, is not supported; send and receive whole tensors without it",
        ),
        (
            [{**image_input(b"x"), "data": ["no base64!"]}],
            "an element of IMAGE in JSON is an image file in base64; this one has '!' at character 10, which "
            "base64 does not use",
        ),
        (
            [{**image_input(b"x"), "data": ["é"]}],
            "an element of IMAGE in JSON is an image file in base64; this one has 'é' at character 1, which base64 "
            "does not use",
        ),
        (
            [{**image_input(b"x"), "data": [255]}],
            "an element of IMAGE is a string, an image file in base64, not 255",
        ),
        ([{**image_input(b"x"), "data": []}], "the shape [1] declares 1 elements, but the data has 0"),
        ([{**image_input(b"x"), "data": ["eA==", "eA=="]}], "the shape [1] declares 1 elements, but the data has 2"),
    ],
)
def test_invalid_inputs_are_refused(inputs: Any, sentence: str) -> None:
    assert refused(json.dumps({"inputs": inputs}).encode()) == sentence


# ---- refusals: shapes ----


@pytest.mark.parametrize("name", ["IMAGE", "PIXELS"])
@pytest.mark.parametrize(
    "shape", [None, 3, "3", {}, [-1], [1.5], [1.0], [True], ["1"], [None], [[1]], [1] * 9, [float("nan")]], ids=str
)
def test_an_invalid_shape_is_refused(name: str, shape: Any) -> None:
    entry = {**image_input(b"x"), "name": name, "datatype": "UINT8" if name == "PIXELS" else "BYTES", "shape": shape}
    sentence = refused(encode([entry])[0])
    assert sentence == f"the shape of {name} is a list of up to 8 whole numbers of at least 0, not {shown(shape)}"


@pytest.mark.parametrize("shape", [[], [1, 2], [1, 1, 1], [1, 0]], ids=str)
def test_images_of_another_shape_are_refused(shape: list[int]) -> None:
    sentence = refused(encode([{**image_input(b"x"), "shape": shape}])[0])
    assert sentence == f"IMAGE takes the shape [B] or [B, 1] for B images, not {shape}"


@pytest.mark.parametrize("count", [0, 9, 2**31, 2**62])
@pytest.mark.parametrize("binary", [False, True])
def test_a_wrong_number_of_images_is_refused(count: int, binary: bool) -> None:
    entry = {**image_input(b"x"), "shape": [count]}
    body = encode([in_bytes(entry, 5)], sized([b"x"])) if binary else encode([entry])
    assert refused(*body) == f"a request takes 1 to 8 images (--max-batch), not {count}"


@pytest.mark.parametrize(
    "shape", [[], [3], [3, 3], [1, 1, 1], [1, 1, 1, 4], [0, 1, 1, 3], [1, 0, 1, 3], [1] * 5], ids=str
)
def test_pixels_of_another_shape_are_refused(shape: list[int]) -> None:
    sentence = refused(encode([{**pixel_input(np.zeros((1, 1, 3), np.uint8)), "shape": shape}])[0])
    assert sentence == f"PIXELS takes the shape [H, W, 3] or [B, H, W, 3], upright RGB pixels, not {shape}"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "side", [2, 2**31, 2**62, 10**300, 10**2200, 10**4000], ids=lambda side: f"{len(str(side))} digits"
)
def test_missing_pixels_are_refused(side: int, binary: bool) -> None:
    """For any size that it declares, without allocating it."""
    entry = {**pixel_input(np.zeros((1, 1, 3), np.uint8)), "shape": [1, side, side, 3]}
    refused(*(encode([in_bytes(entry, 3)], b"123") if binary else encode([entry])))


# ---- refusals: bytes after the JSON ----


@pytest.mark.parametrize("size", [-1, 5, 2**63, 3.0, "3", True, float("nan")], ids=str)
def test_an_invalid_binary_data_size_is_refused(size: Any) -> None:
    body, length = encode([in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), size)], b"1234")
    assert refused(body, length) == (
        f"binary_data_size of PIXELS is {shown(size)}, but 4 bytes are left after the JSON; check "
        "Inference-Header-Content-Length"
    )


def test_without_a_length_no_bytes_follow_the_json() -> None:
    body, _ = encode([in_bytes(image_input(b"x"), 5)])
    assert "Inference-Header-Content-Length" in refused(body)


def test_bytes_of_no_input_are_refused() -> None:
    entry = in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), 3)
    assert (
        refused(*encode([entry], b"1234"))
        == "4 bytes follow the JSON, but the binary_data_size of the inputs add up to 3"
    )
    assert (
        refused(*encode([image_input(b"x")], b"1"))
        == "1 bytes follow the JSON, but the binary_data_size of the inputs add up to 0"
    )


def test_two_inputs_may_not_share_their_bytes() -> None:
    entry = in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), 3)
    assert "binary_data_size of PIXELS is 3, but 0 bytes are left" in refused(*encode([entry, entry], b"123"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("<I", 4) + b"abc", "declares 4 bytes, but only 3 follow"),
        (struct.pack("<I", 2**32 - 1), "declares 4294967295 bytes, but only 0 follow"),
        (struct.pack(">I", 3) + b"abc", "declares 50331648 bytes, but only 3 follow"),
        (b"abc", "declares 1 elements, but its 3 bytes hold a different number"),
        (b"\0\0\0\0\0", "declares 1 elements, but its 5 bytes hold a different number"),
        (sized([b"a", b"b"]), "declares 1 elements, but its 10 bytes hold a different number"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(data: bytes, reason: str) -> None:
    assert reason in refused(*encode([in_bytes(image_input(b"x"), len(data))], data))


def test_no_bytes_are_no_image() -> None:
    entry = in_bytes(image_input(b"x"), 0)
    assert refused(encode([entry])[0]) == "IMAGE declares 1 elements, but its 0 bytes hold a different number"


# ---- refusals: pixels in JSON ----


@pytest.mark.parametrize(
    "value",
    [
        -1,
        256,
        1.0,
        1.5,
        1e30,
        2**31,
        2**63,
        2**64,
        2**70,
        -(2**70),
        "1",
        "",
        None,
        True,
        {},
        float("nan"),
        float("inf"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_invalid_pixel_value_is_refused(value: Any, place: int) -> None:
    data: list[Any] = [1, 2, 3]
    data[place] = value
    entry = pixel_input(np.zeros((1, 1, 3), np.uint8), data)
    assert refused(encode([entry])[0]) == "PIXELS takes whole numbers from 0 to 255"


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 2.0, 3.0], ["1", "2", "3"], [None] * 3], ids=str)
def test_a_list_of_invalid_pixel_values_is_refused(values: list[Any]) -> None:
    entry = pixel_input(np.zeros((1, 1, 3), np.uint8), values)
    assert refused(encode([entry])[0]) == "PIXELS takes whole numbers from 0 to 255"


LONG_TEXT = """
import json, resource
from tta_server.api.oip.tensors import read_images
from tta_server.api.oip.http_codec import read_infer
from tta_server.errors import InvalidInput
data = ["a" * 100_000] + [1] * 29_999
body = json.dumps({"inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [100, 100, 3], "data": data}]}).encode()
resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
try:
    read_images(read_infer(body, None, "toy", "").request.inputs, 1)
except InvalidInput as error:
    print(error)
"""


def test_a_long_text_among_the_pixels_takes_no_memory() -> None:
    """As an array of strings these 190 kB would take 12 GB."""
    done = subprocess.run([sys.executable, "-c", LONG_TEXT], capture_output=True, text=True, timeout=60)
    assert done.stdout == "PIXELS takes whole numbers from 0 to 255\n", done.stderr[-300:]


@pytest.mark.parametrize(
    "data",
    [
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]],
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 2]]]],
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], 1, 2, 3]]],
        [[[[1, 2, 3], [4, 5, 6]], 7]],
        [1, [2], 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        [[[[[1]] * 3] * 2] * 2],
        [[1] * 12],
        [[]],
        [],
        [1] * 11,
        [1] * 13,
        [[1] * 6] * 2,
    ],
    ids=str,
)
def test_data_nested_otherwise_than_its_shape_is_refused(data: list[Any]) -> None:
    entry = pixel_input(np.zeros((1, 2, 2, 3), np.uint8), data)
    assert "shape [1, 2, 2, 3]" in refused(encode([entry])[0])


# ---- huge numbers ----


@pytest.mark.parametrize("value", [2**63, 10**300, 10**400, 10**4000], ids=lambda value: f"{len(str(value))} digits")
@pytest.mark.parametrize("key", ["timeout", "priority", "tta_max_views", "tta_min_views"])
def test_huge_numbers_are_accepted_or_refused(key: str, value: int) -> None:
    body, _ = encode([image_input(b"x")], parameters={key: value})
    try:
        read_parameters(read(body).request.parameters)
    except InvalidInput as refusal:
        check(str(refusal))


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "x" * 100_000, "\0", "\u202e"], ids=["line", "color", "long", "null", "bidi"]
)
def test_a_name_can_not_break_out_of_its_sentence(name: str) -> None:
    tensor = {**image_input(b"x"), "name": name}
    for entry in (tensor, {**tensor, "shape": [-1]}, {**tensor, "datatype": 3}, {**tensor, "data": 3}):
        refused(encode([entry])[0])
    refused(encode([tensor, tensor])[0])
    refused(encode([{**tensor, "parameters": {"classification": 1}}])[0])
    refused(encode([in_bytes(tensor, 9)])[0])


# ---- compressed bodies ----


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


ENCODERS = {"gzip": gzip.compress, "zlib": zlib.compress, "raw deflate": raw_deflate}
NAMES = {"gzip": "gzip", "zlib": "deflate", "raw deflate": "deflate"}

encodings = pytest.mark.parametrize("form", ENCODERS)


@encodings
@given(data=st.binary(max_size=2000))
def test_inflating_undoes_deflating(form: str, data: bytes) -> None:
    assert inflate(ENCODERS[form](data), NAMES[form], len(data)) == data
    assert inflate(ENCODERS[form](data), NAMES[form], len(data) + 1) == data


@encodings
def test_a_byte_over_the_limit_is_too_large(form: str) -> None:
    assert len(inflate(ENCODERS[form](b"\0" * 1000), NAMES[form], 1000)) == 1000
    with pytest.raises(TooLarge, match=r"^the decompressed body exceeds the limit of 999 bytes \(--max-bytes\)$"):
        inflate(ENCODERS[form](b"\0" * 1000), NAMES[form], 999)


@encodings
def test_a_truncated_stream_is_refused(form: str) -> None:
    whole = ENCODERS[form](bytes(range(256)) * 4)
    for length in range(len(whole)):
        with pytest.raises(InvalidInput):
            inflate(whole[:length], NAMES[form], 10_000)


@pytest.mark.parametrize("form", ["gzip", "zlib"])
@given(data=st.data())
def test_a_flipped_bit_is_never_taken_for_the_body(form: str, data: st.DataObject) -> None:
    """The checksums detect it, but in header fields that do not concern the content."""
    content = bytes(range(256))
    whole = bytearray(ENCODERS[form](content))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    try:
        assert inflate(bytes(whole), NAMES[form], 10_000) == content
    except (InvalidInput, TooLarge) as refusal:
        check(str(refusal))


@encodings
def test_data_after_the_stream_is_refused(form: str) -> None:
    with pytest.raises(InvalidInput):
        inflate(ENCODERS[form](b"abc") + b"garbage", NAMES[form], 1000)


def test_a_second_gzip_member_is_not_ignored() -> None:
    """By RFC 1952 consecutive members are one content, so a reader of one member has to refuse them."""
    try:
        assert inflate(gzip.compress(b"abc") + gzip.compress(b"def"), "gzip", 1000) == b"abcdef"
    except InvalidInput as refusal:
        check(str(refusal))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"plain", "gzip"),
        (b"plain", "deflate"),
        (zlib.compress(b"abc"), "gzip"),
        (raw_deflate(b"abc"), "gzip"),
        (b"\x1f\x8b", "gzip"),
        (b"\xff" * 50, "deflate"),
        (b"", "gzip"),
        (b"", "deflate"),
    ],
)
def test_a_body_of_another_encoding_is_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inflate(body, encoding, 1000)
    check(str(caught.value))


BOMB = """
import resource, sys, zlib
from tta_server.api.http_request import inflate
from tta_server.errors import TooLarge
window, encoding, limit = int(sys.argv[1]), sys.argv[2], 20_000_000
deflater = zlib.compressobj(9, zlib.DEFLATED, window)
bomb = b"".join(deflater.compress(b"\\0" * 10_000_000) for _ in range(100)) + deflater.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    inflate(bomb, encoding, limit)
except TooLarge as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(("window", "encoding"), [(31, "gzip"), (15, "deflate"), (-15, "deflate")])
def test_a_bomb_takes_no_more_memory_than_the_limit(window: int, encoding: str) -> None:
    """1 GB of zeros in 1 MB, with a limit of 20 MB: the buffer grows by copying, so twice that is needed."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(window), encoding], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 100_000_000
