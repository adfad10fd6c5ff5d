"""Bodies of HTTP requests: compressed ones are decompressed within the limit, or refused."""

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.binary_tensors import check
from tta_server.api.http_request import inflate
from tta_server.errors import InvalidInput, TooLarge


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "raw deflate": raw_deflate,
}
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


@pytest.mark.parametrize(
    ("window", "encoding"),
    [(31, "gzip"), *(pytest.param(bits, "deflate", marks=pytest.mark.slow) for bits in (15, -15))],
)
def test_a_bomb_takes_no_more_memory_than_the_limit(window: int, encoding: str) -> None:
    """1 GB of zeros in 1 MB, with a limit of 20 MB: the buffer grows by copying, so twice that is needed."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(window), encoding], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 100_000_000
