"""For any bytes, the parsers raise only errors of the family and leak no memory."""

import asyncio
import gc
import gzip
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from tritonclient.grpc import service_pb2 as pb

from tests.support.examples import times
from tests.support.onnx_models import classifier, write_model
from tests.tasks.test_every_task import FIXED, config
from tta_server.api.http.form import read_upload
from tta_server.api.http_request import read_body
from tta_server.api.oip.grpc_codec import read_request
from tta_server.api.oip.http_codec import read_header_length, read_infer, read_object
from tta_server.api.oip.semantics import parse_request
from tta_server.api.requests import ByteBudget, Reservation
from tta_server.application import Application
from tta_server.errors import InvalidInput, TTAError
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

LIMIT = 1000
HUGE = 10**4000
"""Nearly as many digits as Python reads."""


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application with a model that only parses requests; nothing runs."""
    settings = config("classification", FIXED, {"kind": "probabilities"})
    folder = write_model(tmp_path_factory.mktemp("models") / "toy", classifier(), settings)
    known = Application(Settings(models=folder.parent, slots=1, max_images_per_request=4), [load_model(folder)])
    yield known
    known.close()


def refusal_of(work: Callable[[], object]) -> str | None:
    """None if the request is valid, else the error's sentence; any other exception fails the test."""
    try:
        work()
    except TTAError as refusal:
        sentence = str(refusal)
        assert 10 < len(sentence) < 1000
        return sentence
    return None


# ---- almost valid requests ----

WORDS = st.sampled_from(
    [
        *("inputs", "outputs", "parameters", "id", "name", "shape", "datatype", "data", "timeout", "priority"),
        *("binary_data_size", "binary_data", "binary_data_output", "tta_policy", "tta_max_views", "classification"),
        *("IMAGE", "PIXELS", "BYTES", "UINT8", "LABEL", "d4", "all", "eA=="),
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 300), st.integers(), st.sampled_from([2**31, 2**63, 2**64, HUGE, -(2**63)]), st.floats()
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=3)), inner, max_size=4)
    ),
    max_leaves=12,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda luck: ANYTHING if luck == 19 else usual)


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON objects of these keys, mostly with valid values."""
    made = st.fixed_dictionaries(
        {key: mostly(value) for key, value in required.items()},
        optional={key: mostly(value) for key, value in optional.items()},
    )
    return mostly(made)


SHAPES = st.one_of(
    st.sampled_from([[1], [2], [1, 1], [1, 1, 3], [1, 1, 1, 3], [2, 1, 2, 3], [1, 2, 1, 3]]),
    st.lists(NUMBERS, max_size=9),
)
DATA = st.one_of(
    st.lists(st.integers(0, 255), min_size=3, max_size=3),
    st.lists(NUMBERS, min_size=3, max_size=3),
    st.lists(ANYTHING, max_size=6),
    st.just(["eA=="]),
)
INPUTS = objects(
    {
        "name": st.sampled_from(["IMAGE", "PIXELS"]),
        "datatype": st.sampled_from(["BYTES", "UINT8"]),
        "shape": SHAPES,
        "data": DATA,
    },
    {"parameters": objects({}, {"binary_data_size": st.integers(0, 8)})},
)
OUTPUTS = objects(
    {"name": st.sampled_from(["LABEL", "INDEX", "RECEIPT"])},
    {"parameters": objects({}, {"binary_data": st.booleans()})},
)
PARAMETERS = objects(
    {},
    {
        "timeout": NUMBERS,
        "priority": NUMBERS,
        "binary_data_output": st.booleans(),
        "tta_policy": st.one_of(st.sampled_from(["d4", '["identity"]']), st.text(max_size=5)),
        "tta_max_views": NUMBERS,
        "tta_min_views": NUMBERS,
        "tta_stop": st.text(max_size=5),
        "tta_merge": st.text(max_size=5),
        "tta_include": st.text(max_size=5),
        "tta_what": LEAVES,
    },
)
REQUESTS = objects(
    {"inputs": st.lists(INPUTS, min_size=1, max_size=2)},
    {"id": st.text(max_size=5), "outputs": st.lists(OUTPUTS, max_size=3), "parameters": PARAMETERS},
)


def parse(application: Application, body: bytes, header: str | None) -> object:
    length = read_header_length(header, len(body))
    return parse_request(application, read_infer(body, length, "toy", "").request)


# ---- HTTP ----


@settings(max_examples=times(1500))
@given(request=REQUESTS, data=st.data())
def test_any_json_is_parsed_or_refused(application: Application, request: Any, data: st.DataObject) -> None:
    head = json.dumps(request).encode()
    behind = data.draw(st.just(b"") | st.just(bytes(stated_size(request))) | st.binary(max_size=8))
    header = data.draw(st.sampled_from([str(len(head)) if behind else None, str(len(head)), None, "9"]))
    refusal_of(lambda: parse(application, head + behind, header))


def stated_size(request: Any) -> int:
    """The sum of the inputs' binary_data_size, as far as they are numbers."""
    try:
        return sum(entry["parameters"]["binary_data_size"] for entry in request["inputs"]) % 100
    except (TypeError, KeyError, OverflowError, ValueError):
        return 0


@settings(max_examples=times(500))
@given(body=st.binary(max_size=200), header=st.one_of(st.none(), st.text(max_size=25), st.integers(0, 200).map(str)))
@example(body=b"{}", header="٠")
@example(body=b"{}", header="0" * 5000)
def test_any_bytes_are_parsed_or_refused(application: Application, body: bytes, header: str | None) -> None:
    refusal_of(lambda: parse(application, body, header))
    refusal_of(lambda: read_object(body))


PIXELS = json.dumps(
    {
        "id": "7",
        "parameters": {"timeout": 5000, "tta_policy": '["identity", {"rotate": 10}]', "binary_data_output": True},
        "inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [1, 2, 3], "parameters": {"binary_data_size": 6}}],
        "outputs": [{"name": "LABEL", "parameters": {"binary_data": False}}],
    }
).encode()
IMAGES = b'{"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[2,1],"parameters":{"binary_data_size":12}}]}'
LISTED = b'{"inputs":[{"name":"PIXELS","datatype":"UINT8","shape":[1,2,1,3],"data":[[[[1,2,3]],[[4,5,6]]]]}]}'
ENCODED = b'{"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[2],"data":["eA==", "/9j/"]}]}'
SOUND = [
    (PIXELS + b"\1\2\3\4\5\6", len(PIXELS)),
    (IMAGES + struct.pack("<I", 3) + b"abc" + struct.pack("<I", 1) + b"x", len(IMAGES)),
    (LISTED, None),
    (ENCODED, None),
]


@st.composite
def mutations(draw: st.DrawFn, whole: bytes) -> bytes:
    """A few bits flipped, and pieces removed, duplicated or inserted."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        match draw(st.sampled_from(["flip", "cut", "end", "insert", "double"])):
            case "flip" if at < len(found):
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[at : at + draw(st.integers(1, 20))]
            case "end":
                del found[at:]
            case "insert":
                found[at:at] = draw(
                    st.one_of(st.binary(max_size=4), st.sampled_from([b"9" * 400, b"[" * 300, b"-", b"\0"]))
                )
            case "double":
                found[at:at] = found[at : at + 20]
    return bytes(found)


@pytest.mark.parametrize(("body", "length"), SOUND, ids=["pixels", "images", "listed", "encoded"])
def test_the_requests_before_mutation_are_valid(application: Application, body: bytes, length: int | None) -> None:
    assert refusal_of(lambda: parse(application, body, None if length is None else str(length))) is None


@settings(max_examples=times(1500))
@given(data=st.data(), sound=st.sampled_from(SOUND), shift=st.sampled_from([0, 0, 0, 1, -1]))
def test_a_mutated_request_is_parsed_or_refused(
    application: Application, data: st.DataObject, sound: tuple[bytes, int | None], shift: int
) -> None:
    body, length = sound
    mutated = data.draw(mutations(body))
    header = None if length is None else str(max(length + len(mutated) - len(body) + shift, 0))
    refusal_of(lambda: parse(application, mutated, header))


# ---- gRPC ----

INFER_PARAMETERS = st.one_of(
    st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
    st.integers(0, 2**64 - 1).map(lambda value: pb.InferParameter(uint64_param=value)),
    st.floats().map(lambda value: pb.InferParameter(double_param=value)),
    st.text(max_size=5).map(lambda value: pb.InferParameter(string_param=value)),
    st.builds(pb.InferParameter),
)
KEYS = st.one_of(
    st.sampled_from(
        ["timeout", "priority", "tta_policy", "tta_max_views", "tta_stop", "tta_include", "classification"]
    ),
    st.text(max_size=3),
)
NAMED = st.dictionaries(KEYS, INFER_PARAMETERS, max_size=2)
TENSORS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.one_of(st.sampled_from(["IMAGE", "PIXELS"]), st.text(max_size=3)),
    datatype=st.one_of(st.sampled_from(["BYTES", "UINT8"]), st.text(max_size=3)),
    shape=st.one_of(
        st.sampled_from([[1], [2, 1], [1, 1, 3], [1, 1, 1, 3]]), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9)
    ),
    parameters=NAMED,
    contents=st.builds(
        pb.InferTensorContents,
        bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
        uint_contents=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 255), max_size=3),
        int_contents=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 255), max_size=3),
        fp32_contents=st.lists(st.floats(width=32), max_size=3),
        bool_contents=st.lists(st.booleans(), max_size=3),
    ),
)
MESSAGES = st.builds(
    pb.ModelInferRequest,
    model_name=st.just("toy") | st.text(max_size=3),
    model_version=st.sampled_from(["", "1", "2"]),
    id=st.text(max_size=3),
    parameters=NAMED,
    inputs=st.lists(TENSORS, max_size=2),
    outputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferRequestedOutputTensor,
            name=st.sampled_from(["LABEL", "INDEX", "RECEIPT"]) | st.text(max_size=3),
            parameters=NAMED,
        ),
        max_size=2,
    ),
    raw_input_contents=st.lists(st.binary(max_size=8) | st.just(b"\1\0\0\0x"), max_size=2),
)


@settings(max_examples=times(1500))
@given(message=MESSAGES)
def test_any_message_is_parsed_or_refused(application: Application, message: Any) -> None:
    refusal_of(lambda: parse_request(application, read_request(message)))


# ---- bodies ----


def request_of(chunks: list[bytes], headers: dict[str, str]) -> Request:
    """A request whose body arrives in these chunks."""
    left = iter([{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks])

    async def receive() -> dict[str, Any]:
        return next(left, {"type": "http.request", "body": b"", "more_body": False})

    raw = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}, receive)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, *(place % (len(body) + 1) for place in places), len(body)})
    return [body[a:b] for a, b in pairwise(ends)]


def image_of(chunks: list[bytes], headers: dict[str, str]) -> bytes:
    byte_budget = ByteBudget(10 * LIMIT)
    try:
        with byte_budget.reserve() as held:
            return asyncio.run(read_upload(request_of(chunks, headers), LIMIT, held)).image
    finally:
        byte_budget.add(10 * LIMIT)  # all reserved bytes have been released


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    b"xyz\r\n--b--\r\n"
)
FORM_TYPE = "multipart/form-data; boundary=b"
LATIN = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
FORM_TYPES = st.one_of(
    st.just(FORM_TYPE),
    st.text(LATIN, max_size=20).map(lambda text: "multipart/form-data; " + text),
    st.text(LATIN, max_size=20).map(lambda text: FORM_TYPE + "; charset=" + text),
    st.sampled_from(["utf-8", "idna", "undefined", "punycode", "hex", "utf-16", '"', "utf-7"]).map(
        lambda name: FORM_TYPE + "; charset=" + name
    ),
)
PLACES = st.lists(st.integers(0, 300), max_size=4)


@given(places=PLACES)
def test_a_form_may_come_in_any_pieces(places: list[int]) -> None:
    assert image_of(cut(FORM, places), {"content-type": FORM_TYPE}) == b"xyz"


@settings(max_examples=times(1000))
@given(data=st.data(), kind=FORM_TYPES, places=PLACES)
def test_a_mutated_form_is_read_or_refused(data: st.DataObject, kind: str, places: list[int]) -> None:
    body = data.draw(st.one_of(st.just(FORM), mutations(FORM), st.binary(max_size=100)))
    refusal_of(lambda: image_of(cut(body, places), {"content-type": kind}))


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "hex", "rot13", "utf-16", "utf-7", "\xff", '"'])
def test_any_charset_of_a_form_is_accepted(charset: str) -> None:
    refusal_of(lambda: image_of([FORM], {"content-type": f"{FORM_TYPE}; charset={charset}"}))


@settings(max_examples=times(500))
@given(data=st.data(), encoding=st.sampled_from(["gzip", "deflate"]), size=st.integers(0, 2 * LIMIT), places=PLACES)
def test_a_mutated_compressed_body_is_read_or_refused(
    data: st.DataObject, encoding: str, size: int, places: list[int]
) -> None:
    deflate = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    whole = deflate(bytes(size))
    body = data.draw(st.one_of(st.just(whole), mutations(whole), st.binary(max_size=40)))

    def inflate() -> None:
        read = asyncio.run(
            read_body(
                request_of(cut(body, places), {"content-encoding": encoding}),
                LIMIT,
                Reservation(ByteBudget(10 * LIMIT)),
            )
        )
        assert len(read) <= LIMIT

    refusal_of(inflate)


@settings(max_examples=times(200))
@given(name=st.text(LATIN, max_size=10), body=st.binary(max_size=20))
def test_an_unknown_encoding_is_refused(name: str, body: bytes) -> None:
    sentence = refusal_of(lambda: image_of([body], {"content-encoding": name}))
    known = name.strip().lower() in ("gzip", "deflate", "identity")
    assert known or sentence is not None


# ---- memory ----


def rejected(application: Application, rounds: int) -> None:
    """Parse invalid requests of many kinds `rounds` times."""
    for index in range(rounds):
        name = f"{index % 100:x}" * 4
        bodies = [
            json.dumps({"inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": ["eA=="]}]}).encode(),
            json.dumps({"inputs": [], "parameters": {f"tta_{name}": name}}).encode(),
            json.dumps({"inputs": [], "parameters": {"tta_policy": f'["identity", "{name}"]'}}).encode(),
            json.dumps({"id": index}).encode(),
            b'{"id": "' + name.encode(),
        ]
        for body in bodies:
            assert refusal_of(lambda body=body: parse(application, body, None)) is not None
        with pytest.raises(InvalidInput):
            parse_request(application, read_request(pb.ModelInferRequest(model_name="toy", id=name)))


def test_refused_requests_leak_no_memory(application: Application) -> None:
    """Six thousand, after a thousand that fill the JSON parser's string cache."""
    tracemalloc.start()
    try:
        rejected(application, 200)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        rejected(application, 1000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 64_000
    finally:
        tracemalloc.stop()
