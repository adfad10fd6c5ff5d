"""Every TIFF layout is decoded as an independent reader decodes it, or refused by name."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.imaging.formats.test_png import xmp
from tests.imaging.test_decoding import STORED
from tests.support.corpus import by_pillow
from tests.support.costly import tiff, tiles
from tests.support.differential import LEVELS, WRONG, compare
from tests.support.examples import times
from tests.support.layouts import (
    DEFLATE,
    GREY,
    LZW,
    NONE,
    PACKBITS,
    PALETTE,
    RGB,
    WHITE,
    Layout,
    as_rgb,
    by_tifffile,
    table,
    values,
    written,
)
from tests.support.patterns import noise, smooth
from tta_server.errors import InvalidInput, TooLarge, TTAError, UnsupportedMedia
from tta_server.imaging.decoding import Limits, Rendering, decode, read_header
from tta_server.imaging.formats import tiff_layout
from tta_server.views.geometry import Size

CELLS = list(table())


def read(data, levels=None):
    rendering = Rendering(levels=levels)
    return decode(data, read_header(data, Limits(), rendering), rendering)


def levels_for(layout):
    return LEVELS if layout.form != 1 or layout.depth > 16 else None


@settings(max_examples=times(300))
@given(st.sampled_from(CELLS), st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
def test_every_cell_equals_its_samples_and_tifffile(layout, width, height, seed):
    samples = values(layout, width, height, seed)
    data, levels = written(samples, layout), levels_for(layout)
    found = read(data, levels)
    np.testing.assert_array_equal(found, as_rgb(samples, layout, levels))
    np.testing.assert_array_equal(found, by_tifffile(data, levels))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [WHITE, GREY])
def test_grey_of_every_unsigned_depth_spans_black_to_white(depth, photometric):
    layout = Layout(photometric=photometric, depth=depth)
    ends = np.array([[[0], [(1 << depth) - 1]]], layout.dtype)
    black, white = read(written(ends, layout))[0, :, 0]
    assert (black, white) == ((255, 0) if photometric == WHITE else (0, 255))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("layout", [Layout(photometric=RGB, depth=16, separate=True), Layout(compression=LZW)])
def test_every_orientation_is_decoded_upright(layout, orientation):
    upright = values(layout, 21, 13)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = written(stored, layout, {274: [orientation]})
    assert read_header(data, Limits()).size == Size(21, 13)
    np.testing.assert_array_equal(read(data), as_rgb(upright, layout))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("size", [Size(163, 57), Size(1, 40), Size(8, 3)])
def test_ccitt_equals_pillow_and_tifffile(compression, photometric, size):
    picture = Image.fromarray(noise(size)[..., 0] > 120)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", compression=compression, tiffinfo={262: photometric})
    found = read(buffer.getvalue())
    np.testing.assert_array_equal(found, np.asarray(Image.open(buffer).convert("RGB")))
    if compression != "tiff_ccitt":
        np.testing.assert_array_equal(found, by_tifffile(buffer.getvalue()))


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb"},
        {"photometric": "ycbcr", "subsampling": (2, 2)},
        {"photometric": "ycbcr", "subsampling": (1, 1)},
        {"photometric": "ycbcr", "tile": (32, 48)},
        {"photometric": "ycbcr", "rowsperstrip": 16, "subsampling": (2, 1)},
        {"photometric": "minisblack"},
    ],
    ids=str,
)
@pytest.mark.parametrize("order", "<>")
def test_jpeg_compression_equals_tifffile(options, order):
    picture = smooth(Size(100, 70))
    picture = picture[..., 0] if options["photometric"] == "minisblack" else picture
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture, byteorder=order, compression="jpeg", **options)
    found = read(buffer.getvalue())
    np.testing.assert_array_equal(found, by_tifffile(buffer.getvalue()))
    if options["photometric"] == "rgb":  # tifffile stores RGB as if it were YCbCr
        np.testing.assert_allclose(found.astype(int), picture, atol=12)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", ["tiff_jpeg", "jpeg", "tiff_adobe_deflate", "packbits", None])
def test_tiffs_written_by_pillow_equal_pillow(order, compression):
    buffer = io.BytesIO()
    Image.fromarray(smooth(Size(100, 70))).save(buffer, "TIFF", compression=compression)
    np.testing.assert_allclose(
        read(buffer.getvalue()).astype(int), np.asarray(Image.open(buffer)), atol=2 if "jpeg" in str(compression) else 0
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("element", [False, True])
@pytest.mark.parametrize("other", [None, 3])
def test_orientation_in_xmp_equals_pillow(orientation, element, other):
    tags = {700: xmp(orientation, element)} | ({} if other is None else {274: other})
    data = by_pillow(Image.fromarray(noise(Size(21, 13))), "TIFF", tiffinfo=tags)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read(data), expected)


# ---- unsupported layouts ----

REFUSED = {
    "the photometric interpretation CIELab": {262: [8]},
    "the photometric interpretation ICCLab": {262: [9]},
    "the photometric interpretation a mask": {262: [4]},
    "the photometric interpretation LogLuv": {262: [32845]},
    "the photometric interpretation number 77": {262: [77]},
    "YCbCr that is not compressed as JPEG": {262: [6]},
    "no tag PhotometricInterpretation": {262: None},
    "the compression old JPEG": {259: [6]},
    "the compression JPEG 2000": {259: [34712]},
    "the compression WebP": {259: [50001]},
    "the compression number 60000": {259: [60_000]},
    "CCITT group 4 of more than 1 bit": {259: [4]},
    "a predictor with the compression none": {317: [2]},
    "predictor 3 of unsigned 8 bit": {317: [3]},
    "4 bands of RGB that its tag ExtraSamples does not describe": {277: [4], 258: [8] * 4, 339: [1] * 4, 338: [0, 0]},
    "2 bands of RGB that its tag ExtraSamples does not describe": {277: [2], 258: [8] * 2, 339: [1] * 2},
    "3 bands of grey": {262: [1]},
    "a first page that is a preview of another": {254: [1]},
    "several bands of alpha": {277: [5], 258: [8] * 5, 339: [1] * 5, 338: [2, 1]},
    "bands of several depths": {258: [8, 8, 16]},
    "samples that are complex float, 64 bit": {258: [64] * 3, 339: [6] * 3},
    "samples that are undefined, 8 bit": {339: [4] * 3},
    "samples that are unsigned, 24 bit": {258: [24] * 3},
    "reversed bits": {266: [2]},
    "inks other than": {262: [5], 277: [4], 258: [8] * 4, 339: [1] * 4, 332: [2]},
    "4 bit samples in several bands": {258: [4] * 3},
    "JPEG compression of such a layout": {259: [7], 284: [2]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_an_unsupported_layout_is_refused_by_name(words):
    layout = Layout(photometric=RGB)
    data = written(values(layout, 20, 10), layout, REFUSED[words])
    with pytest.raises(UnsupportedMedia, match=rf"{words}.* is not supported; supported: "):
        read_header(data, Limits())


def test_ccitt_is_refused_if_libtiff_may_leave_pixels_uninitialised(monkeypatch):
    data = by_pillow(Image.fromarray(noise(Size(20, 10))[..., 0] > 99), "TIFF", compression="group4")
    assert read(data).shape == (10, 20, 3)
    monkeypatch.setattr(tiff_layout, "LIBTIFF", (4, 7, 1))
    with pytest.raises(UnsupportedMedia, match="CCITT group 4, which is not supported; supported: CCITT if"):
        read_header(data, Limits())


@pytest.mark.parametrize(("form", "depth"), [(2, 8), (2, 16), (3, 32), (1, 32)])
def test_samples_without_a_defined_range_need_levels(form, depth):
    layout = Layout(depth=depth, form=form)
    data = written(values(layout, 20, 10), layout)
    with pytest.raises(UnsupportedMedia, match=rf"{depth} bit samples.*input\.levels"):
        read(data)
    with pytest.raises(UnsupportedMedia, match=rf"{depth} bit samples.*input\.levels"):
        read_header(data, Limits(), Rendering())
    assert read(data, "auto").max() == 255


# ---- broken files ----


@pytest.mark.parametrize("compression", [NONE, LZW, DEFLATE, PACKBITS])
@pytest.mark.parametrize("block", [(7, None), (16, 16)])
def test_segments_that_are_too_short_are_broken(compression, block):
    layout = Layout(photometric=RGB, depth=16, compression=compression, block=block)
    data = written(values(layout, 50, 40), layout)
    lengths = 325 if block[1] else 279
    whole = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags[lengths].value
    for short in (1, whole[1] // 2, whole[1] - 5):  # the last four bytes of deflate are a checksum
        shorter = written(values(layout, 50, 40), layout, {lengths: [whole[0], short, *whole[2:]]})
        with pytest.raises(InvalidInput, match="broken"):
            read(shorter)


@pytest.mark.parametrize(
    "tags",
    [{273: [10_000_000] * 6}, {279: [0] * 6}, {273: [8] * 5}, {273: None}, {256: [0]}, {320: [1, 2]}, {284: [3]}],
    ids=str,
)
def test_tags_that_contradict_the_file_are_broken(tags):
    layout = Layout(photometric=PALETTE if 320 in tags else RGB)
    with pytest.raises(TTAError, match=r"broken|empty"):
        read(written(values(layout, 50, 40), layout, tags))


@pytest.mark.parametrize("compression", [1, 5, 7, 8, 32773, 50000])
@pytest.mark.parametrize("padding", [0, 5000])
def test_overlapping_tiles_are_refused_by_the_header(compression, padding):
    body = zlib.compress(bytes(256), 0)
    data = tiles(body + bytes(padding), len(body) + padding, 64, 16, compression)
    with pytest.raises(InvalidInput, match="overlap"):
        read_header(data, Limits())


def test_equal_tiles_may_share_bytes_up_to_twice_the_file_s_size():
    body = zlib.compress(bytes([7]) * 256)
    data = tiles(body + bytes(len(body) * 64), len(body), 8, 16)
    assert len(body) * 64 * 2 > len(data)
    np.testing.assert_array_equal(read(data), np.full((128, 128, 3), 7))


@pytest.mark.parametrize("offset", [0, 7, 2**32 - 1, 10**6])
@pytest.mark.parametrize("count", [0, 2**32 - 1])
def test_tiles_outside_the_file_are_refused_by_the_header(offset, count):
    shape = {256: [16], 257: [16], 322: [16], 323: [16], 258: [8], 259: [1], 262: [1], 277: [1]}
    for places in ({324: [offset], 325: [256]}, {324: [8], 325: [count]}, {324: [offset], 325: [count]}):
        with pytest.raises(InvalidInput, match="strips or tiles are missing or lie outside the file"):
            read_header(tiff(bytes(256), shape | places), Limits())


def test_samples_of_far_more_bytes_than_pixels_are_too_large():
    limits = Limits(max_pixels=48 * 32)
    for bands, accepted in ((1, True), (3, False)):
        layout = Layout(photometric=RGB if bands == 3 else GREY, depth=64, form=3, compression=DEFLATE)
        data = written(values(layout, 48, 32), layout)
        if accepted:
            assert read_header(data, limits).size == (48, 32)
        else:
            with pytest.raises(TooLarge, match="40320 bytes of samples; the limit is 19968"):
                read_header(data, limits)


def test_tiles_far_larger_than_the_image_are_refused():
    layout = Layout(compression=DEFLATE, block=(16, 16))
    data = written(values(layout, 16, 16), layout, {322: [60_000], 323: [60_000]})
    with pytest.raises(UnsupportedMedia, match="tiles that are far larger"):
        read_header(data, Limits())


@pytest.mark.parametrize("changes", [{322: [1], 323: [1]}, {322: [16]}, {323: [16]}])
def test_strips_with_the_size_of_tiles_are_refused(changes):
    """libtiff would take them as tiles."""
    layout = Layout(block=(7, None))
    with pytest.raises(InvalidInput, match="broken"):
        read_header(written(values(layout, 16, 16), layout, changes), Limits())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=times(300))
@given(st.data())
def test_inconsistent_tags_are_refused_or_equal_tifffile(data):
    layout = data.draw(st.sampled_from(CELLS))
    samples = values(layout, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30)))
    tag = st.sampled_from([256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 332, 338, 339])
    number = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 32773])
    changes = data.draw(
        st.dictionaries(tag, st.none() | st.lists(number, min_size=1, max_size=4), min_size=1, max_size=2)
    )
    changed = written(samples, layout, changes)
    assert compare(changed) != WRONG
