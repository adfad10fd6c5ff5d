"""Levels and alpha, in files of all formats that have them and in the receipt."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.imaging.formats.test_png import png
from tests.support.corpus import by_pillow, with_opencv
from tests.support.layouts import CMYK, DEFLATE, GREY, RGB, WHITE, Layout, values, written
from tests.support.onnx_models import regressor, write_model
from tests.support.patterns import noise, smooth
from tta_server import load
from tta_server.errors import UnsupportedMedia
from tta_server.imaging.decoding import Limits, Rendering, decode, decode_with_levels, read_header
from tta_server.serving.image import read_source
from tta_server.views.geometry import Size

SIZE = Size(21, 13)
TEAL = (0, 128, 200)


def shown(data, background=None, levels=None):
    rendering = Rendering(background, levels)
    return decode_with_levels(data, read_header(data, Limits(), rendering), rendering)


def over(colors, alpha, background=TEAL):
    """`colors` in [0, 255], `alpha` in [0, 1], both floats; rounded once."""
    return np.rint(colors * alpha + np.array(background) * (1 - alpha))


# ---- alpha ----


def rgba():
    return noise(SIZE, 4)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_over_a_background(form):
    pixels = rgba()
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    found = shown(by_pillow(Image.fromarray(pixels), form, **options), TEAL).pixels
    np.testing.assert_array_equal(found, over(pixels[..., :3].astype(float), pixels[..., 3:] / 255))


def test_grey_with_alpha_over_a_background():
    pixels = noise(SIZE, 2)
    found = shown(by_pillow(Image.fromarray(pixels, "LA"), "PNG"), TEAL).pixels
    np.testing.assert_array_equal(found, over(pixels[..., :1].astype(float), pixels[..., 1:] / 255))


def test_alpha_of_16_bits_over_a_background():
    deep = values(Layout(photometric=RGB, depth=16, extras=(2,)), *SIZE)
    expected = over(deep[..., :3] / 257, deep[..., 3:] / 65_535)
    np.testing.assert_array_equal(shown(with_opencv(deep[..., [2, 1, 0, 3]], ".png"), TEAL).pixels, expected)
    layout = Layout(photometric=RGB, depth=16, extras=(2,), order=">")
    np.testing.assert_array_equal(shown(written(deep, layout), TEAL).pixels, expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_premultiplied_alpha_over_a_background(depth):
    layout, most = Layout(photometric=RGB, depth=depth, extras=(1,)), (1 << depth) - 1
    samples = values(layout, *SIZE)
    alpha = samples[..., 3:] / most
    expected = np.rint(np.minimum(samples[..., :3] * (255 / most) + np.array(TEAL) * (1 - alpha), 255))
    np.testing.assert_array_equal(shown(written(samples, layout), TEAL).pixels, expected)


def test_premultiplied_alpha_is_divided_out_as_in_pillow():
    """Of colours above their alpha, and of alpha 0, too."""
    samples = np.random.default_rng(5).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    samples[:, :8, 3] = np.arange(8)
    data = written(samples, Layout(photometric=RGB, extras=(1,)))
    np.testing.assert_array_equal(shown(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_one_picture_with_premultiplied_alpha_is_the_same_in_8_and_16_bits():
    straight = smooth(SIZE).astype(float)
    alpha = np.full((*straight.shape[:2], 1), 128)
    eight = np.concatenate([np.rint(straight * 128 / 255), alpha], axis=2).astype(np.uint8)
    layout = Layout(photometric=RGB, extras=(1,))
    wide = Layout(photometric=RGB, depth=16, extras=(1,))
    first = shown(written(eight, layout)).pixels.astype(int)
    second = shown(written(eight.astype(np.uint16) * 257, wide)).pixels
    assert abs(first - second).max() <= 1
    assert abs(first - straight).max() <= 2


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255, 7])])
@pytest.mark.parametrize("background", [None, TEAL])
def test_a_palette_s_transparency(transparency, background):
    image = Image.fromarray(noise(SIZE, 1)[..., 0] % 7).convert("P")
    image.putpalette([v for i in range(7) for v in (i * 30, 255 - i, i)])
    data = by_pillow(image, "PNG", transparency=transparency)
    clear = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)
    expected = clear[..., :3] if background is None else over(clear[..., :3], clear[..., 3:] / 255)
    np.testing.assert_array_equal(shown(data, background).pixels, expected)


def test_a_gif_s_transparency_is_dropped_or_shows_the_background():
    image = Image.fromarray(noise(SIZE, 1)[..., 0] % 4).convert("P")
    image.putpalette([v for i in range(4) for v in (i * 60, 255 - i, i)])
    data = by_pillow(image, "GIF", transparency=2)
    np.testing.assert_array_equal(shown(data).pixels, np.asarray(image.convert("RGB")))
    clear = np.asarray(image) == 2
    found = shown(data, TEAL).pixels
    assert (found[clear] == TEAL).all()
    np.testing.assert_array_equal(found[~clear], np.asarray(image.convert("RGB"))[~clear])


@pytest.mark.parametrize(("depth", "key"), [(2, 1), (4, 9), (8, 200), (16, 40_000)])
def test_a_transparent_grey_shows_the_background(depth, key):
    most = (1 << depth) - 1
    grey = np.array([[0, key, most, key]])
    found = shown(png(grey[..., None], depth, 0, {b"tRNS": key.to_bytes(2, "big")}), TEAL).pixels[0]
    np.testing.assert_array_equal(found[[1, 3]], [TEAL, TEAL])
    np.testing.assert_array_equal(found[[0, 2]], [[0] * 3, [255] * 3])


def test_a_transparent_colour_of_16_bits_is_compared_in_16_bits():
    colors = np.array([[[1000, 2000, 3000], [1000, 2000, 3001]]])
    data = png(colors, 16, 2, {b"tRNS": colors[0, 0].astype(">u2").tobytes()})
    np.testing.assert_array_equal(shown(data, TEAL).pixels[0], [TEAL, (4, 8, 12)])


def test_an_opaque_file_does_not_care_for_a_background():
    for form in ("JPEG", "BMP", "PNG"):
        data = by_pillow(Image.fromarray(smooth(SIZE)), form)
        np.testing.assert_array_equal(shown(data, TEAL).pixels, shown(data).pixels)


# ---- levels ----


def test_twelve_bits_in_a_file_of_16():
    grey = values(Layout(depth=12), *SIZE)
    data = written(grey, Layout(depth=16))
    found = shown(data, levels=(0, 4095))
    np.testing.assert_array_equal(found.pixels[..., 0], np.rint(grey[..., 0] * 255.0 / 4095))
    assert found.levels == (0, 4095)
    assert shown(data).pixels.max() <= 16


@pytest.mark.parametrize(
    "layout",
    [Layout(depth=16), Layout(depth=16, form=2), Layout(depth=32, form=3), Layout(depth=32), Layout(depth=64, form=2)],
    ids=str,
)
def test_auto_levels_are_the_file_s_own_range(layout):
    samples = values(layout, *SIZE)
    found = shown(written(samples, layout), levels="auto")
    low, high = float(samples.min()), float(samples.max())
    assert found.levels == (low, high)
    assert (found.pixels.min(), found.pixels.max()) == (0, 255)
    expected = np.rint((samples[..., 0].astype(float) - low) * 255 / (high - low))
    np.testing.assert_array_equal(found.pixels[..., 0], expected)


def test_auto_levels_leave_alpha_out_and_take_all_colours_together():
    layout = Layout(photometric=RGB, depth=16, extras=(2,))
    samples = np.array([[[100, 200, 300, 65_535], [100, 150, 200, 0]]], np.uint16)
    found = shown(written(samples, layout), levels="auto")
    assert found.levels == (100, 300)
    np.testing.assert_array_equal(found.pixels[0, 0], [0, 128, 255])


def test_values_outside_the_levels_are_clipped_and_what_is_no_number_is_black():
    samples = np.array([[[-np.inf], [-1], [0.5], [2], [np.inf], [np.nan]]], np.float32)
    data = written(samples, Layout(depth=32, form=3))
    np.testing.assert_array_equal(shown(data, levels=(0, 1)).pixels[0, :, 0], [0, 0, 128, 255, 255, 0])
    assert shown(data, levels="auto").levels == (-1, 2)


def test_a_picture_of_one_value_is_black_under_auto_levels():
    found = shown(written(np.full((3, 4, 1), 900, np.uint16), Layout(depth=16)), levels="auto")
    assert found.levels == (900, 900)
    assert not found.pixels.any()


def test_levels_of_white_is_zero():
    samples = np.array([[[0], [4095]]], np.uint16)
    data = written(samples, Layout(photometric=WHITE, depth=16))
    np.testing.assert_array_equal(shown(data, levels=(0, 4095)).pixels[0, :, 0], [255, 0])


def test_levels_of_a_png_of_16_bits():
    deep = (smooth(SIZE).astype(np.uint16) << 2) + 3
    found = shown(with_opencv(deep[..., ::-1], ".png"), levels=(0, 1023)).pixels
    np.testing.assert_array_equal(found, np.rint(deep * 255.0 / 1023))


@pytest.mark.parametrize("levels", [(50.0, 100.0), "auto"])
def test_files_of_8_bits_and_cmyk_are_not_touched_by_levels(levels):
    eight = Image.fromarray(smooth(SIZE))
    files = [by_pillow(eight, form) for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")]
    deep = Layout(photometric=CMYK, depth=16)
    for data in [*files, written(values(deep, *SIZE), deep)]:
        found = shown(data, levels=levels)
        assert found.levels is None
        np.testing.assert_array_equal(found.pixels, shown(data).pixels)


# ---- in a model's tta.yaml ----

CONFIG = "task: regression\nlabels: [r, g, b]\ninput: {{size: [8, 8], scale: 1{}}}\noutput: {{}}\n"


def answered(folder, more, data):
    write_model(folder / "tiny", regressor(), CONFIG.format(more))
    with load(folder / "tiny", slots=1) as model:
        return model.predict(data, budget_ms=5000)


def numbers(answer):
    return [round(value) for value in answer.to_dict()["prediction"]["values"].values()]


def flat(value, dtype=np.uint16):
    return written(np.full((8, 8, 1), value, dtype), Layout(depth=16, form=2 if dtype == np.int16 else 1))


def test_a_receipt_states_the_levels_that_were_applied(tmp_path):
    answer = answered(tmp_path, ", levels: [-1000, 1000]", flat(0, np.int16))
    assert answer.to_dict()["receipt"]["levels"] == [-1000, 1000]
    assert numbers(answer) == [128, 128, 128]


def test_a_receipt_is_silent_where_no_levels_were_applied(tmp_path):
    answer = answered(tmp_path, ", levels: auto", by_pillow(Image.new("RGB", (8, 8), (10, 20, 30)), "PNG"))
    assert "levels" not in answer.to_dict()["receipt"]
    assert numbers(answer) == [10, 20, 30]


def test_a_model_s_background_lies_behind_its_images(tmp_path):
    clear = by_pillow(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), "PNG")
    assert numbers(answered(tmp_path, ", background: [1, 2, 3]", clear)) == [1, 2, 3]
    assert numbers(answered(tmp_path / "other", "", clear)) == [10, 20, 30]


def test_signed_samples_are_refused_before_decoding_by_a_model_without_levels(tmp_path):
    with pytest.raises(UnsupportedMedia, match=r"signed 16 bit samples.*input\.levels"):
        answered(tmp_path, "", flat(0, np.int16))


@pytest.mark.parametrize("depth", [8, 16, 64])
def test_samples_count_as_memory_that_waits(depth):
    layout = Layout(depth=depth, compression=DEFLATE, form=3 if depth == 64 else 1)
    data = written(np.zeros((400, 300, 1), layout.dtype), layout)
    source = read_source(data, Limits(), Rendering(levels="auto"))
    assert source.nbytes >= len(data) + (3 + 2 * depth // 8) * 400 * 300


def test_decode_takes_two_arguments():
    data = by_pillow(Image.fromarray(smooth(SIZE)), "PNG")
    np.testing.assert_array_equal(decode(data, read_header(data, Limits())), smooth(SIZE))


def test_grey_of_any_depth_is_grey():
    for depth in (1, 2, 4, 8, 12, 16):
        layout = Layout(photometric=GREY, depth=depth)
        found = shown(written(values(layout, *SIZE), layout)).pixels
        assert (found == found[..., :1]).all()
