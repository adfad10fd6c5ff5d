"""GIF, AVIF, HEIC and WebP, metadata of JPEG, and sizes beyond Pillow's own limit."""

import builtins
import io
import struct

import numpy as np
import pillow_heif
import pytest
import simplejpeg
from PIL import Image, ImageOps

from tests.imaging.formats.test_png import exif, xmp
from tests.support.corpus import by_pillow, common
from tests.support.costly import bmp
from tests.support.patterns import noise, smooth
from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.views.geometry import Size

SIZE = Size(48, 32)
PICTURE = Image.fromarray(smooth(SIZE))


def read(data, limits=None):
    return decode(data, read_header(data, limits or Limits()))


def heic(picture, **options):
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, **options)
    return buffer.getvalue()


def as_pillow(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("form", ["GIF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_one_frame_equals_pillow(form, mode):
    data = by_pillow(PICTURE.convert(mode), form)
    header = read_header(data, Limits())
    assert (header.format, header.size) == (form, SIZE)
    np.testing.assert_array_equal(decode(data, header), as_pillow(data))


@pytest.mark.parametrize("form", ["GIF", "AVIF", "WEBP"])
def test_several_frames_are_refused(form):
    frames = [Image.fromarray(noise(SIZE, seed=seed)) for seed in range(3)]
    data = by_pillow(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedMedia, match=f"the {form} image has several frames or pages; send one"):
        read_header(data, Limits())


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
@pytest.mark.parametrize("header", [40, 52, 56, 64, 108, 124])
def test_run_length_encoded_bmps_are_refused_by_name(bits, compression, header):
    with pytest.raises(
        UnsupportedMedia, match=r"compressed \(RLE\), which is not supported; supported: uncompressed BMP"
    ):
        read_header(bmp(bits, compression, b"\0\1", (8, 8), header), Limits())


@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
@pytest.mark.parametrize("header", [40, 52, 56, 64, 108, 124])
def test_uncompressed_bmps_equal_pillow(bits, header):
    data = bmp(bits, 0, np.random.default_rng(1).bytes(16 * 4 * 8), (16, 8), header)
    np.testing.assert_array_equal(read(data), as_pillow(data))


def gif_with(part, behind=False):
    data = by_pillow(Image.fromarray(smooth(SIZE)[..., 0]), "GIF")
    at = len(data) - 1 if behind else 13 + 3 * 256
    return data[:at] + part + data[at:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("part", [b"!\xfe" + b"\1a" * 300_000 + b"\0", b"!\xf9\0" * 200_000, b"\0" * 600_000])
def test_gifs_of_too_many_blocks_are_refused_by_name(part, behind):
    with pytest.raises(InvalidInput, match=r"the GIF image has more than \d+ blocks"):
        read_header(gif_with(part, behind), Limits())


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("part", [b"!\xfe" + b"\xff" + b"a" * 255 + b"\0", b"!\xfe\0", b"\0" * 9, b"!\xf9\4\0\1\1\5\0"])
def test_other_blocks_of_a_gif_are_skipped_as_in_pillow(part, behind):
    np.testing.assert_array_equal(read(gif_with(part, behind)), as_pillow(gif_with(part, behind)))


def test_gifs_of_small_blocks_are_accepted():
    parts = b"!\xfe" + (b"\x64" + b"a" * 100) * 10_000 + b"\0"
    assert read_header(gif_with(parts), Limits()).size == SIZE


def test_several_images_in_a_heic_are_refused():
    file = pillow_heif.from_pillow(PICTURE)
    file.add_from_pillow(Image.fromarray(noise(SIZE)))
    buffer = io.BytesIO()
    file.save(buffer)
    with pytest.raises(UnsupportedMedia, match="several frames"):
        read_header(buffer.getvalue(), Limits())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["AVIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_orientation_equals_pillow(form, orientation, place):
    options = {"exif": b"Exif\0\0" + exif(orientation)} if place == "exif" else {"xmp": xmp(orientation)}
    data = by_pillow(PICTURE, form, **options)
    expected = as_pillow(data)
    assert read_header(data, Limits()).size == Size(expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(read(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_decoded_upright(orientation):
    turned, buffer = PICTURE.copy(), io.BytesIO()
    turned.getexif()[274] = orientation
    options = {"quality": 100, "chroma": 444, "exif": b"Exif\0\0" + exif(orientation)}
    pillow_heif.encode("RGB", SIZE, PICTURE.tobytes(), buffer, **options)
    data = buffer.getvalue()
    expected = np.asarray(ImageOps.exif_transpose(turned)).astype(int)
    assert read_header(data, Limits()).size == Size(expected.shape[1], expected.shape[0])
    np.testing.assert_allclose(read(data), expected, atol=6)


def test_heic_without_its_library_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pillow_heif"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedMedia, match=r"pip install 'tta-server\[heif\]'"):
        read_header(heic(PICTURE), Limits())


def test_reading_heic_registers_nothing_with_pillow():
    read(heic(PICTURE))
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(heic(PICTURE)))


@pytest.mark.parametrize("form", ["GIF", "AVIF", "WEBP", "HEIC", "BMP"])
def test_too_many_pixels_are_refused_from_the_header(form):
    data = heic(PICTURE) if form == "HEIC" else by_pillow(PICTURE, form)
    with pytest.raises(TooLarge, match=f"{SIZE.area} pixels; the limit is {SIZE.area - 1}"):
        read_header(data, Limits(max_pixels=SIZE.area - 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["GIF", "AVIF", "HEIC"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_broken(form, share):
    picture = Image.fromarray(noise(Size(90, 70)))
    data = heic(picture) if form == "HEIC" else by_pillow(picture, form)
    with pytest.raises(InvalidInput, match="broken"):
        read(data[: int(len(data) * share)])


# ---- JPEG ----


def with_segments(data, segments):
    """Insert segments (marker, content) behind a JPEG's first two bytes."""
    parts = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + parts + data[2:]


ICC = [(0xE2, b"ICC_PROFILE\0" + bytes([k + 1, 5]) + bytes(65_000)) for k in range(5)]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    "segment",
    [lambda n: (0xE1, b"Exif\0\0" + exif(n)), lambda n: (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(n))],
    ids=["exif", "xmp"],
)
@pytest.mark.parametrize("before", [[], ICC], ids=["first", "behind 325 kB of ICC"])
def test_orientation_anywhere_in_a_jpeg_s_head(before, segment, orientation):
    data = with_segments(by_pillow(PICTURE, "JPEG"), [*before, segment(orientation)])
    np.testing.assert_array_equal(read(data), as_pillow(data))


def test_an_exif_signature_behind_a_jpeg_is_ignored():
    data = by_pillow(PICTURE, "JPEG") + b"Exif\0\0" + exif(6)
    assert read_header(data, Limits()).orientation == 1


def test_fill_bytes_between_segments_are_skipped():
    data = by_pillow(PICTURE, "JPEG")
    turned = with_segments(data, [(0xE1, b"Exif\0\0" + exif(6))])
    assert read_header(turned[:2] + b"\xff\xff" + turned[2:], Limits()).orientation == 6


@pytest.mark.parametrize("turned", [1, 6])
def test_a_subsampling_unknown_to_simplejpeg_equals_pillow(turned):
    data = by_pillow(PICTURE, "JPEG", subsampling=0, exif=b"Exif\0\0" + exif(turned))
    at = data.index(b"\xff\xc0") + 11  # the first component's sampling factors
    data = data[:at] + b"\x31" + data[at + 1 :]
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg_header(data)
    np.testing.assert_array_equal(read(data), as_pillow(data))


# ---- Pillow's own limit belongs to the user's program ----


@pytest.mark.parametrize("limit", [1, 100, None])
def test_pillow_s_limit_is_neither_applied_nor_changed(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    files = common(Size(60, 40))
    for name, data in files.items():
        assert read(data).shape == (40, 60, 3), name
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_beyond_pillow_s_limit_has_the_same_pixels(monkeypatch, mode, lossless):
    data = by_pillow(PICTURE.convert(mode), "WEBP", lossless=lossless)
    expected = read(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    np.testing.assert_array_equal(read(data), expected)
