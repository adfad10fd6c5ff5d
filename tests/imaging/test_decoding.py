import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.patterns import noise, smooth
from tta_server.errors import InvalidInput, TooLarge, TTAError, UnsupportedMedia
from tta_server.imaging.decoding import Limits, decode, read_header
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.view import View

SIZE = Size(21, 13)
LOSSLESS = ["PNG", "BMP", "TIFF", "WEBP"]
ORIENTATION = 274
hostile = pytest.mark.filterwarnings("ignore")  # Pillow warns about metadata that it can't read


def read(data, limits=None):
    return decode(data, read_header(data, limits or Limits()))


def encoded(image, form, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if form == "WEBP":
        options.setdefault("lossless", True)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height, depth=8, color=2):
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


def thin_png(width):
    rows = zlib.compress(b"\0" * (width + 1))
    return png_header(width, 1, color=0) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


# ---- formats ----


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_the_pixels(form):
    pixels = noise(SIZE)
    data = encoded(pixels, form)
    header = read_header(data, Limits())
    assert (header.format, header.size, header.orientation) == (form, SIZE, 1)
    np.testing.assert_array_equal(decode(data, header), pixels)


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"progressive": True}])
def test_jpeg_pixels_equal_pillow(options):
    data = encoded(smooth(Size(53, 37)), "JPEG", **options)
    assert read_header(data, Limits()).size == Size(53, 37)
    np.testing.assert_array_equal(read(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("form", ["JPEG", *LOSSLESS])
def test_pixels_are_contiguous_rgb_of_8_bits(form):
    pixels = read(encoded(noise(SIZE), form))
    assert pixels.shape == (SIZE.height, SIZE.width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


# ---- orientation ----

STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
"""Orientation -> how a camera stores an upright image (the inverse of what a viewer does)."""


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_decoded_upright(form, orientation):
    upright = noise(SIZE)
    data = encoded(np.ascontiguousarray(STORED[orientation](upright)), form, exif=exif(orientation))
    assert read_header(data, Limits()).size == SIZE
    np.testing.assert_array_equal(read(data), upright)


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_of_a_jpeg_is_decoded_upright(orientation):
    upright = smooth(Size(48, 32))
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif(orientation))
    assert read_header(data, Limits()).size == Size(48, 32)
    np.testing.assert_allclose(read(data).astype(int), upright, atol=4)


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_of_a_16_bit_tiff_is_decoded_upright(orientation):
    upright = noise(SIZE, 1)[:, :, 0].astype(np.uint16)
    stored = STORED[orientation](upright[:, :, None])[:, :, 0] * 257
    data = encoded(np.ascontiguousarray(stored), "TIFF", tiffinfo={ORIENTATION: orientation})
    assert read_header(data, Limits()).size == SIZE
    np.testing.assert_array_equal(read(data)[:, :, 0], upright)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_invalid_orientation_is_ignored(orientation):
    pixels = noise(SIZE)
    np.testing.assert_array_equal(read(encoded(pixels, "PNG", exif=exif(orientation))), pixels)


# ---- kinds of pixels ----


def grey_levels():
    return noise(SIZE, 1)[:, :, 0]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_grey_becomes_three_equal_channels(form):
    level = grey_levels()
    np.testing.assert_array_equal(read(encoded(level, form)), np.stack([level] * 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_alpha_is_dropped(form):
    rgba, la = noise(SIZE, 4), noise(SIZE, 2)
    np.testing.assert_array_equal(read(encoded(rgba, form)), rgba[:, :, :3])
    np.testing.assert_array_equal(read(encoded(Image.fromarray(la, "LA"), form)), np.stack([la[:, :, 0]] * 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_a_palette_is_looked_up(form):
    image = Image.fromarray(grey_levels() % 7).convert("P")
    image.putpalette([v for i in range(7) for v in (i * 30, 255 - i, i)])
    np.testing.assert_array_equal(read(encoded(image, form)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255])])
def test_a_palette_with_transparent_entries_keeps_their_colours(transparency):
    image = Image.fromarray(grey_levels() % 7).convert("P")
    image.putpalette([v for i in range(7) for v in (i * 30, 255 - i, i)])
    data = encoded(image, "PNG", transparency=transparency)
    np.testing.assert_array_equal(read(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(form):
    bits = grey_levels() > 127
    expected = np.stack([bits * np.uint8(255)] * 3, axis=2)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(bits), form)), expected)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted_as_in_pillow(form):
    image = Image.fromarray(smooth(Size(48, 32))).convert("CMYK")
    expected = np.asarray(image.convert("RGB")).astype(int)
    found = read(encoded(image, form, **({"quality": 95} if form == "JPEG" else {})))
    np.testing.assert_allclose(found.astype(int), expected, atol=12 if form == "JPEG" else 0)


@pytest.mark.parametrize("form", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_divided_by_257_and_rounded(form, channels):
    deep = np.random.default_rng(1).integers(0, 65536, (9, 14, channels)).astype(np.uint16)
    deep[0, :6] = np.array([0, 128, 129, 30000, 65407, 65535]).reshape(6, 1)
    data = cv2.imencode(form, deep)[1].tobytes()  # OpenCV takes BGR(A)
    found = read(data)
    expected = np.rint(deep / 257).astype(np.uint8)
    expected = expected[:, :, [0, 0, 0] if channels == 1 else [2, 1, 0]]
    np.testing.assert_array_equal(found, expected)
    assert found[0, 3, 0] == 117


def test_16_bit_grey_written_by_pillow():
    deep = np.full((2, 3), 30000, np.uint16)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read(encoded(deep, form)), np.full((2, 3, 3), 117))


def test_16_bit_grey_with_alpha_in_a_png():
    rows = b"".join(b"\0" + struct.pack(">HH", 30000, 65535) * 3 for _ in range(2))
    data = png_header(3, 2, depth=16, color=4) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    np.testing.assert_array_equal(read(data), np.full((2, 3, 3), 117))


def test_floats_are_refused_without_levels():
    with pytest.raises(UnsupportedMedia, match=r"float 32 bit samples.*input\.levels"):
        read(encoded(np.zeros((3, 4), np.float32), "TIFF"))


def test_16_bit_tiff_in_which_0_is_white_is_inverted(tmp_path):
    values = np.array([[0, 60000], [30000, 65535]], np.uint16)
    path = tmp_path / "white.tiff"
    Image.fromarray(values).save(path, tiffinfo={262: 0})
    data = path.read_bytes()
    found = decode(data, read_header(data, Limits()))[..., 0]
    np.testing.assert_array_equal(found, 255 - np.rint(values / 257))


# ---- refusals ----


def frames():
    return [Image.fromarray(noise(SIZE, seed=seed)) for seed in range(3)]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_several_frames_or_pages_are_refused(form):
    first, *rest = frames()
    data = encoded(first, form, save_all=True, append_images=rest)
    with pytest.raises(UnsupportedMedia, match="several frames or pages"):
        read_header(data, Limits())


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(SIZE), "JPEG2000"),
        encoded(noise(SIZE), "PPM"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"8BPS\0\1",
        b"\0\0\0\x20ftypisom",
        b"x",
    ],
    ids=["jpeg 2000", "ppm", "svg", "psd", "mp4", "one byte"],
)
def test_other_formats_are_refused_naming_the_supported_ones(data):
    with pytest.raises(UnsupportedMedia, match=r"supported: JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF, HEIC$"):
        read_header(data, Limits())


def test_an_empty_body_is_refused():
    with pytest.raises(InvalidInput, match="the image is empty"):
        read_header(b"", Limits())


def test_too_many_bytes_are_refused():
    with pytest.raises(TooLarge, match="has 11 bytes; the limit is 10"):
        read_header(b"\x89PNG\r\n\x1a\nxxx", Limits(max_bytes=10))


@pytest.mark.parametrize("form", ["JPEG", *LOSSLESS])
def test_too_many_pixels_are_refused_from_the_header(form):
    data = encoded(noise(SIZE), form)
    assert read(data, Limits(max_pixels=SIZE.area)).shape == (13, 21, 3)
    with pytest.raises(TooLarge, match="the image is 21x13, 273 pixels; the limit is 272"):
        read_header(data, Limits(max_pixels=SIZE.area - 1))


@pytest.mark.parametrize("side", [6000, 10_000, 60_000, 2**31 - 1])
def test_a_header_of_a_huge_image_is_too_large(side):
    with pytest.raises(TooLarge):
        read_header(png_header(side, side) + png_chunk(b"IDAT", b""), Limits())


def test_a_thin_image_that_resizing_would_blow_up_is_refused_by_preprocessing():
    header = read_header(thin_png(60_000), Limits())
    assert header.size == Size(60_000, 1)
    with pytest.raises(TooLarge, match="would be 8760000x146 after resizing"):
        Preprocessing(Size(128, 128), Resize.SHORT, 146).check([View()], header.size, Limits())


@hostile
@pytest.mark.parametrize("form", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_broken(form, share):
    data = encoded(noise(Size(60, 40)), form)
    with pytest.raises(TTAError, match="broken"):
        read(data[: max(12, int(len(data) * share))])


@hostile
@pytest.mark.parametrize("form", [".png", ".tiff"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_of_16_bits_is_broken(form, share):
    deep = np.random.default_rng(1).integers(0, 65536, (40, 60, 3)).astype(np.uint16)
    data = cv2.imencode(form, deep)[1].tobytes()
    with pytest.raises(InvalidInput, match="broken"):
        read(data[: int(len(data) * share)])
