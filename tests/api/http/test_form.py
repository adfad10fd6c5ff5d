"""The options of a form are those of the query: read, validated and refused alike."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import pictures
from tests.support.examples import times
from tests.support.wording import FOREIGN, check_sentence
from tta_server.api.http.form import MAX_FIELD_BYTES, Upload, read_form
from tta_server.errors import InvalidInput, TooLarge
from tta_server.serving.options import PredictQuery, read_options

PREDICT = "/v1/models/clothing/predict"
KIND = "multipart/form-data; boundary=b"
LIMIT = 5_000
IMAGE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nxyz'
PATIENT = {"budget_ms": "5000"}


def part(name: str, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b'Content-Disposition: form-data; name="%s"\r\n\r\n' % name.encode() + data


def body(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + each + b"\r\n" for each in parts) + b"--b--\r\n"


def refused(data: bytes, kind: str = KIND) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_form(data, kind, LIMIT)
    return check_sentence(str(caught.value))


@pytest.mark.parametrize("at", range(4))
def test_options_may_stand_before_and_behind_the_image(at: int) -> None:
    options = {"max_views": "1", "policy": '["identity"]', "merge": "é"}
    parts = [part(*option) for option in options.items()]
    assert read_form(body(*parts[:at], IMAGE, *parts[at:]), KIND, LIMIT) == Upload(b"xyz", options)


@given(st.dictionaries(st.sampled_from(list(PredictQuery.model_fields)), st.text(max_size=200)), st.randoms())
def test_every_text_is_read_unchanged(options: dict[str, str], order: Any) -> None:
    parts = [IMAGE, *(part(*option) for option in options.items())]
    order.shuffle(parts)
    boundary = "a-boundary-that-no-text-holds"
    data = body(*parts).replace(b"--b", b"--" + boundary.encode())
    assert read_form(data, f"multipart/form-data; boundary={boundary}", LIMIT) == Upload(b"xyz", options)


KNOWN = "known: image (the file), " + ", ".join(PredictQuery.model_fields)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (body(IMAGE, part("views", "1")), f"unknown field 'views'; {KNOWN}"),
        (body(part("width", "1"), IMAGE), f"unknown field 'width'; {KNOWN}"),
        (body(IMAGE, IMAGE), "image is given more than once"),
        (body(IMAGE, part("top_k", "1"), part("top_k", "1")), "top_k is given more than once"),
        (
            body(IMAGE.replace(b'"image"', b'"file"')),
            "the field 'file' is a file; the form takes one file, in the field 'image'",
        ),
        (
            body(IMAGE, IMAGE.replace(b'"image"', b'"top_k"')),
            "the field 'top_k' is a file; the form takes one file, in the field 'image'",
        ),
        (body(part("image", "x")), "the field 'image' is text; send it as a file (curl -F image=@photo.jpg)"),
        (
            body(part("top_k", "1")),
            "the multipart body has no file in a field 'image' (curl -F image=@photo.jpg)",
        ),
        (body(IMAGE, part("policy", b"\xff")), "policy is not text in UTF-8"),
        (
            body(IMAGE, part("policy", b"x" * (MAX_FIELD_BYTES + 1))),
            f"policy exceeds the limit of {MAX_FIELD_BYTES} bytes",
        ),
        (body(IMAGE)[:-8], "the multipart body is truncated: its last boundary is missing"),
        (body(IMAGE, b"\r\nx"), "a part of the multipart body has no name"),
        (b"", "the multipart body is truncated: its last boundary is missing"),
        (
            body(IMAGE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n")),
            "the field 'image' has a Content-Transfer-Encoding; send its bytes as they are",
        ),
    ],
)
def test_an_invalid_form_is_refused_with_its_reason(data: bytes, sentence: str) -> None:
    assert refused(data) == sentence


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=y"])
def test_a_boundary_is_needed(kind: str) -> None:
    assert refused(body(IMAGE), kind) == "the multipart body has no boundary in its Content-Type"


def test_a_boundary_that_is_too_long_is_refused() -> None:
    assert "malformed" in refused(body(IMAGE), "multipart/form-data; boundary=" + "b" * 2000)


def test_bytes_over_the_limit_are_too_many() -> None:
    with pytest.raises(TooLarge, match="the image exceeds the limit of 5000 bytes"):
        read_form(body(IMAGE + bytes(LIMIT)), KIND, LIMIT)


@settings(max_examples=times(500))
@given(data=st.binary(max_size=200) | st.lists(st.sampled_from([b"--b", b"\r\n", b":", b'name="', b"-", b"x"])))
def test_no_broken_form_gets_library_text(data: bytes | list[bytes]) -> None:
    broken = data if isinstance(data, bytes) else b"".join(data)
    for candidate in (broken, body(broken, IMAGE), body(IMAGE)[:40] + broken):
        try:
            read_form(candidate, KIND, LIMIT)
        except InvalidInput as error:
            check_sentence(str(error))


@pytest.mark.timing
def test_a_large_file_is_read_at_once() -> None:
    """20 MB that look like boundaries throughout; a search that starts again at each takes longer than a test may."""
    image = b"\r\n--a" * 4_000_000
    assert read_form(body(IMAGE + image), KIND, 2 * len(image)).image == b"xyz" + image


# ---- over HTTP ----


def post_form(client: httpx.Client, form: Mapping[str, str], **query: str) -> httpx.Response:
    return client.post(PREDICT, files={"image": ("a.png", pictures.png())}, data=dict(form), params=query)


def test_a_forms_options_are_the_querys(client: httpx.Client) -> None:
    form = {**PATIENT, "max_views": "2", "top_k": "3", "include": "views", "policy": '["identity", "hflip"]'}
    by_form, by_query = post_form(client, form), post_form(client, {}, **form)
    assert by_form.status_code == by_query.status_code == 200, by_form.text
    assert by_form.json()["prediction"] == by_query.json()["prediction"]
    assert len(by_form.json()["receipt"]["views"]) == 2


def test_query_and_form_go_together(client: httpx.Client) -> None:
    answer = post_form(client, {"max_views": "1"}, **PATIENT)
    assert len(answer.json()["receipt"]["views"]) == 1
    assert answer.json()["receipt"]["budget_ms"] == 5000


@pytest.mark.parametrize(
    ("form", "query", "sentence"),
    [
        ({"max_views": "1"}, {"max_views": "1"}, "max_views is given more than once: in the query and in the form"),
        ({"max_views": "none"}, {}, "max_views takes a whole number of at least 1, not 'none'"),
        ({"max_views": ""}, {}, "max_views takes a whole number of at least 1, not ''"),
        ({"policy": "nonsense"}, {}, "unknown policy 'nonsense'"),
        ({"views": "1"}, {}, "unknown field 'views'"),
        ({"top_k": "1"}, {"views": "1"}, "unknown key 'views'"),
    ],
)
def test_wrong_options_of_a_form_are_refused(
    client: httpx.Client, form: dict[str, str], query: dict[str, str], sentence: str
) -> None:
    answer = post_form(client, form, **query)
    assert answer.status_code == 400
    assert check_sentence(answer.json()["error"]).startswith(sentence)


@given(st.sampled_from(list(PredictQuery.model_fields)), st.text(max_size=20))
def test_a_value_means_the_same_in_form_and_query(key: str, value: str) -> None:
    """With the functions that the handler uses."""
    form = read_form(body(IMAGE, part(key, value)).replace(b"--b", b"--bbbb"), KIND + "bbb", LIMIT)
    try:
        by_query = str(read_options({key: value}))
    except InvalidInput as error:
        by_query = str(error)
    try:
        assert str(read_options(form.options)) == by_query
    except InvalidInput as error:
        assert str(error) == by_query  # noqa: PT017
        assert FOREIGN.search(value) or check_sentence(by_query)


def test_the_docs_list_a_forms_options(client: httpx.Client) -> None:
    predict = client.get("/openapi.json").json()["paths"]["/v1/models/{name}/predict"]["post"]
    form = predict["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image"]
    assert list(form["properties"]) == ["image", *PredictQuery.model_fields]
    assert form["additionalProperties"] is False
    assert json.dumps(form["properties"]["max_views"]) == json.dumps(
        {"description": "Run at most this many of the policy's views.", "minimum": 1, "type": "integer"}
    )
