"""PNG of all colour types and depths, orientation in all its chunks, and truncated files."""

import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.corpus import interlaced_png, with_opencv
from tests.support.patterns import noise, smooth
from tests.support.pictures import chunk
from tta_server.errors import InvalidInput, TTAError
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.views.geometry import Size

SIZE = Size(21, 13)
BANDS = {0: 1, 2: 3, 4: 2, 6: 4}
TURNED = 6


def read(data):
    return decode(data, read_header(data, Limits()))


def png(pixels, depth, color, chunks=None, behind=()):
    """Return a PNG of `pixels` (height, width, bands); `chunks` come before IDAT, those named in `behind` after it."""
    height, width = pixels.shape[:2]
    if depth < 8:
        bits = (pixels.reshape(height, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = pixels.reshape(height, -1).astype(f">u{depth // 8}").view(np.uint8).reshape(height, -1)
    parts = {False: b"", True: b""}
    for kind, body in (chunks or {}).items():
        parts[kind in behind] += chunk(kind, body)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + parts[False] + body + parts[True] + chunk(b"IEND", b"")


def as_rgb(pixels):
    colors = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    return np.broadcast_to(np.rint(colors / 257), (*pixels.shape[:2], 3))


# ---- pixels ----


@pytest.mark.parametrize("color", BANDS)
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [SIZE, Size(1, 1), Size(3, 90)])
def test_16_bits_of_every_kind(color, interlaced, size):
    shape = (size.height, size.width, BANDS[color])
    deep = np.random.default_rng(1).integers(0, 65_536, shape).astype(np.uint16)
    data = interlaced_png(deep, 16, color) if interlaced else png(deep, 16, color)
    np.testing.assert_array_equal(read(data), as_rgb(deep))


@pytest.mark.parametrize("number", [1, 3, 4])
def test_16_bits_with_all_row_filters(number):
    """OpenCV's writer selects a filter for each row."""
    deep = (smooth(Size(300, 200), 4).astype(np.uint16) * 257 + 40)[..., :number]
    found = read(with_opencv(deep, ".png"))
    np.testing.assert_array_equal(found, as_rgb(deep if number == 1 else deep[..., 2::-1]))


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"tRNS", b"bKGD"])
@pytest.mark.parametrize("color", [0, 2])
@pytest.mark.parametrize("depth", [8, 16])
def test_colour_chunks_change_no_value(kind, color, depth):
    bodies = {b"gAMA": struct.pack(">I", 100_000), b"cHRM": bytes(32), b"sRGB": b"\0"}
    bodies |= {b"sBIT": b"\5" * BANDS[color], b"tRNS": bytes(2 * BANDS[color]), b"bKGD": bytes(2 * BANDS[color])}
    pixels = np.random.default_rng(1).integers(0, 1 << depth, (13, 21, BANDS[color]))
    found = read(png(pixels, depth, color, {kind: bodies[kind]}))
    np.testing.assert_array_equal(found, read(png(pixels, depth, color)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_stream_that_ends_early_is_broken(depth, interlaced):
    deep = noise(SIZE).astype(np.uint16)
    data = interlaced_png(deep, depth, 2) if interlaced else png(deep, depth, 2)
    at = data.index(b"IDAT")
    body = zlib.decompress(data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")])
    for share in (0, 0.3, 0.9):
        short = chunk(b"IDAT", zlib.compress(body[: int(len(body) * share)]))
        with pytest.raises(InvalidInput, match="broken"):
            read(data[: at - 4] + short + chunk(b"IEND", b""))
    with pytest.raises(InvalidInput, match="broken"):
        read(data[: at - 4] + chunk(b"IEND", b""))


def split(data, *parts):
    """Return the file before IDAT, the content of IDAT cut at `parts`, and the end of the file."""
    at = data.index(b"IDAT")
    body = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    pieces = [body[a:b] for a, b in itertools.pairwise([0, *parts, len(body)])]
    return data[: at - 4], pieces, chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("pixels", [noise(SIZE), smooth(SIZE)])
def test_a_truncated_stream_yields_no_invented_pixels(depth, interlaced, pixels):
    """A stream that lacks only its checksum is decoded, as by Pillow."""
    deep = pixels.astype(np.uint16)
    whole = interlaced_png(deep, depth, 2) if interlaced else png(deep, depth, 2)
    head, [body], end = split(whole)
    for missing in range(1, 60):
        short = head + chunk(b"IDAT", body[:-missing]) + end
        if missing > 6:
            assert is_broken(short)
        assert is_broken(short) or np.array_equal(read(short), read(whole))
        assert is_broken(head + chunk(b"IDAT", body)[: -missing - 4])
        assert is_broken(head + chunk(b"IDAT", body[:9]) + chunk(b"IDAT", body[9:])[: -missing - 4])


def is_broken(data):
    try:
        read(data)
    except InvalidInput:
        return True
    return False


@pytest.mark.parametrize("depth", [8, 16])
def test_a_chunk_between_idats_makes_the_file_broken_as_in_pillow(depth):
    data = png(noise(SIZE).astype(np.uint16), depth, 2)
    head, (first, second), end = split(data, 50)
    torn = head + chunk(b"IDAT", first) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", second) + end
    with pytest.raises(InvalidInput, match="broken"):
        read(torn)
    several = head + chunk(b"IDAT", first) + chunk(b"IDAT", b"") + chunk(b"IDAT", second) + end
    np.testing.assert_array_equal(read(several), read(data))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_wrong_checksum_of_a_pixel_chunk_is_broken(kind, depth):
    data = png(noise(SIZE).astype(np.uint16), depth, 2, {b"PLTE": bytes(range(6)), b"tRNS": bytes(6)})
    at = data.index(kind) + 4 + {b"IHDR": 13, b"PLTE": 6, b"tRNS": 6}[kind]
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(InvalidInput, match="broken"):
        read(changed)


def test_many_compressed_texts_need_little_memory():
    packed = zlib.compress(bytes(1 << 20), 9)
    names = [b"Raw profile type %05d" % number for number in range(300)]
    names += [b"Raw profile type exif"] * 100 + [b"XML:com.adobe.xmp"] * 100
    texts = b"".join(chunk(b"zTXt", name + b"\0\0" + packed) for name in names)
    data = png(noise(SIZE), 8, 2)
    assert peak(lambda: read_header(data[:33] + texts + data[33:], Limits())) < 8_000_000


def test_invalid_metadata_does_not_affect_pixels():
    bodies = {
        b"zTXt": b"Raw profile type exif\0\0not zlib",
        b"iTXt": b"XML:com.adobe.xmp\0",
        b"eXIf": b"II",
        b"iCCP": b"x",
    }
    pixels = noise(SIZE)
    np.testing.assert_array_equal(read(png(pixels, 8, 2, bodies)), pixels)


# ---- orientation ----


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes().removeprefix(b"Exif\0\0")


def profile(name, block):
    """Return the text of an ImageMagick raw profile."""
    lines = "\n".join(block.hex()[at : at + 72] for at in range(0, len(block.hex()), 72))
    return f"\n{name}\n{len(block):8d}\n{lines}\n".encode()


def xmp(orientation, element=False):
    stated = (
        f"><tiff:Orientation>{orientation}</tiff:Orientation>" if element else f' tiff:Orientation="{orientation}">'
    )
    return f"<x:xmpmeta><rdf:RDF><rdf:Description{stated}</rdf:Description></rdf:RDF></x:xmpmeta>".encode()


def raw(name, block):
    return b"Raw profile type " + name.encode() + b"\0", profile(name.lower(), block)


def raw_exif(orientation):
    return raw("exif", b"Exif\0\0" + exif(orientation))


KEY = b"XML:com.adobe.xmp\0"
PLACES = {
    "eXIf": lambda n: (b"eXIf", exif(n)),
    "raw profile, zTXt": lambda n: (b"zTXt", raw_exif(n)[0] + b"\0" + zlib.compress(raw_exif(n)[1])),
    "raw profile, tEXt": lambda n: (b"tEXt", b"".join(raw_exif(n))),
    "raw profile, iTXt": lambda n: (b"iTXt", raw_exif(n)[0] + bytes(4) + raw_exif(n)[1]),
    "XMP, attribute": lambda n: (b"iTXt", KEY + bytes(4) + xmp(n)),
    "XMP, element": lambda n: (b"iTXt", KEY + bytes(4) + xmp(n, element=True)),
    "XMP, packed": lambda n: (b"iTXt", KEY + b"\1\0en\0\0" + zlib.compress(xmp(n))),
    "XMP, tEXt": lambda n: (b"tEXt", KEY + xmp(n)),
}
BEYOND_PILLOW = {
    "raw profile APP1": lambda n: (b"tEXt", b"".join(raw("APP1", b"Exif\0\0" + exif(n)))),
    "raw profile APP1 with XMP": lambda n: (b"tEXt", b"".join(raw("APP1", xmp(n)))),
    "raw profile xmp": lambda n: (b"tEXt", b"".join(raw("xmp", xmp(n)))),
    "XMP, single quotes": lambda n: (b"iTXt", KEY + bytes(4) + xmp(n).replace(b'"', b"'")),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
def test_orientation_equals_pillow(place, behind, orientation, depth):
    kind, body = PLACES[place](orientation)
    pixels = noise(SIZE).astype(np.uint16) * (1 if depth == 8 else 257)
    data = png(pixels, depth, 2, {kind: body}, (kind,) if behind else ())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape[:2] == ((21, 13) if orientation >= 5 else (13, 21))
    np.testing.assert_array_equal(read(data), expected)


@pytest.mark.parametrize("place", BEYOND_PILLOW)
def test_orientation_of_other_tools_is_found(place):
    kind, body = BEYOND_PILLOW[place](TURNED)
    pixels = noise(SIZE)
    np.testing.assert_array_equal(read(png(pixels, 8, 2, {kind: body})), np.rot90(pixels, -1))


@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", PLACES)
def test_two_orientations_have_pillow_s_precedence(first, second):
    (kind, body), (other, more) = PLACES[first](TURNED), PLACES[second](3)
    data = png(noise(SIZE), 8, 2)
    at = data.index(b"IDAT") - 4
    data = data[:at] + chunk(kind, body) + chunk(other, more) + data[at:]
    np.testing.assert_array_equal(read(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def peak(work):
    """Return the peak memory of `work` in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_decompression_bomb_in_a_text_needs_little_memory():
    bomb = zlib.compress(bytes(100_000_000), 9)
    data = png(noise(SIZE), 8, 2, {b"zTXt": b"Raw profile type exif\0\0" + bomb})
    assert peak(lambda: read_header(data, Limits())) < 8_000_000
    header = read_header(data, Limits())
    assert header.orientation == 1
    assert decode(data, header).shape == (13, 21, 3)


def test_a_file_of_too_many_chunks_is_refused():
    data = png(noise(SIZE), 8, 2)
    many = chunk(b"junk", b"") * 70_000
    with pytest.raises(TTAError, match="more than 65536 chunks"):
        read_header(data[:33] + many + data[33:], Limits())
