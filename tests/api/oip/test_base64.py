"""base64 with any line breaks is decoded; for anything else the error names the characters and their place."""

import base64

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import pictures
from tests.support.wording import check_sentence
from tta_server.api.oip.base64 import decode_base64
from tta_server.errors import InvalidInput


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode_base64(text)
    return check_sentence(str(caught.value)).removeprefix("an element of IMAGE in JSON is an image file in base64")


@given(st.binary(max_size=200), st.integers(1, 76), st.sampled_from(["\n", "\r\n", " ", "\t", "\n\n"]))
def test_lines_and_spaces_are_skipped(data: bytes, width: int, space: str) -> None:
    text = base64.b64encode(data).decode()
    lines = space.join(text[at : at + width] for at in range(0, len(text), width))
    assert decode_base64(text) == decode_base64(lines) == decode_base64(f"{space}{lines}{space}") == data


@given(st.binary(max_size=400))
def test_the_output_of_pythons_encoders_is_decoded(data: bytes) -> None:
    assert decode_base64(base64.encodebytes(data).decode()) == data


@given(st.text(max_size=40) | st.text("AZaz09+/=-_ \n", max_size=40))
def test_a_text_is_decoded_by_the_standard_or_refused(text: str) -> None:
    digits = "".join(text.split())
    try:
        data = decode_base64(text)
    except InvalidInput as error:
        check_sentence(str(error))
        return
    assert data == base64.b64decode(digits, validate=True)
    assert len(digits) % 4 == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:image/png;base64,eA==", ", not a data: URI; send only the part after its comma"),
        ("DATA:,eA==", ", not a data: URI; send only the part after its comma"),
        ("ab-_", "; this one has '-' at character 3, from the URL-safe alphabet; send the standard one, with + and /"),
        ("abc_", "; this one has '_' at character 4, from the URL-safe alphabet; send the standard one, with + and /"),
        ("ab\nc!", "; this one has '!' at character 5, which base64 does not use"),
        ("ab%3D", "; this one has '%' at character 3, which base64 does not use"),
        ("b'eA=='", '; this one has "\'" at character 2, which base64 does not use'),
        ("\ufeffeA==", "; this one has '\\ufeff' at character 1, which base64 does not use"),
        ("\ud800", "; this one has '\\ud800' at character 1, which base64 does not use"),
        ("eA", "; this one has 2 digits and 0 '=' at its end; it needs 2"),
        ("eHg==", "; this one has 3 digits and 2 '=' at its end; it needs 1"),
        ("eHh4=", "; this one has 4 digits and 1 '=' at its end; it needs 0"),
        ("====", "; this one has 0 digits and 4 '=' at its end; it needs 0"),
        ("eHh4e", "; this one has 5 digits, one too many or too few; it seems to be truncated"),
        ("eA==eA==", "; this one continues after the padding '=' at character 3; send one text, not two joined ones"),
        ("e\nA=\nA", "; this one continues after the padding '=' at character 4; send one text, not two joined ones"),
    ],
)
def test_an_invalid_text_is_refused_with_its_place(text: str, expected: str) -> None:
    assert refused(text) == expected


@pytest.mark.timing
def test_long_texts_are_decoded_and_refused_in_c() -> None:
    """20 MB, also with an error in the last character; a loop in Python takes longer than a test may."""
    text = base64.encodebytes(bytes(15_000_000)).decode()
    assert decode_base64(text) == bytes(15_000_000)
    assert f"'!' at character {len(text) + 1}" in refused(text + "!")


@pytest.mark.parametrize("lines", [True, False])
def test_over_http(client: httpx.Client, lines: bool) -> None:
    encode = base64.encodebytes if lines else base64.b64encode
    data = [encode(pictures.png(32, 32)).decode()]
    body = {"inputs": [{"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": data}]}
    assert client.post("/v2/models/cifar10/infer", json=body).status_code == 200
    data[0] = "data:image/png;base64," + data[0]
    answer = client.post("/v2/models/cifar10/infer", json=body)
    assert answer.status_code == 400
    assert "not a data: URI" in answer.json()["error"]
