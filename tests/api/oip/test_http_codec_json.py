"""Infer bodies over HTTP whose JSON is invalid are refused with their reason."""

import json
import re
from typing import Any

import pytest

from tests.support.binary_tensors import check, encode, image_input, refused
from tta_server.api.oip.http_codec import read_header_length, read_infer
from tta_server.api.oip.semantics import TTA_PARAMETERS
from tta_server.errors import InvalidInput

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
