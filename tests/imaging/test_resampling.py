import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.patterns import noise
from tta_server.imaging.resampling import border_index, copy_exact, is_exact, sample, visible_part
from tta_server.views.geometry import Affine, Size, rotation, shift, symmetry, zoom
from tta_server.views.view import Border

PAD_MODES = {
    Border.REFLECT101: "reflect",
    Border.REFLECT: "symmetric",
    Border.REPLICATE: "edge",
    Border.CONSTANT: "constant",
}

NUMPY = {
    "identity": lambda a: a,
    "hflip": lambda a: a[:, :, ::-1],
    "vflip": lambda a: a[:, ::-1],
    "rot90": lambda a: np.rot90(a, 1, (1, 2)),
    "rot180": lambda a: np.rot90(a, 2, (1, 2)),
    "rot270": lambda a: np.rot90(a, 3, (1, 2)),
    "transpose": lambda a: a.transpose(0, 2, 1),
    "antitranspose": lambda a: np.rot90(a, 2, (1, 2)).transpose(0, 2, 1),
}

lengths = st.integers(1, 12)
sizes = st.builds(Size, lengths, lengths)
borders = st.sampled_from(list(Border))


def planes(size, channels=3):
    return noise(size, channels).transpose(2, 0, 1)


def padded(source, reach, border):
    return np.pad(source, ((0, 0), (reach, reach), (reach, reach)), PAD_MODES[border])


def bilinear(source, to_source, size, border, reach):
    """Interpolate bilinearly in float64; no point may lie more than `reach` pixels beyond the source."""
    wide = padded(np.asarray(source, np.float64), reach + 2, border)
    y, x = np.mgrid[0 : size.height, 0 : size.width] + 0.5
    u = to_source.xx * x + to_source.xy * y + to_source.tx - 0.5
    v = to_source.yx * x + to_source.yy * y + to_source.ty - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right_share, lower_share = u - left, v - top
    column, row = left + reach + 2, top + reach + 2
    upper = wide[:, row, column] * (1 - right_share) + wide[:, row, column + 1] * right_share
    lower = wide[:, row + 1, column] * (1 - right_share) + wide[:, row + 1, column + 1] * right_share
    return upper * (1 - lower_share) + lower * lower_share


# ---- exact maps ----


@given(st.sampled_from(list(NUMPY)), sizes)
def test_symmetries_equal_numpy(name, size):
    source = planes(size)
    g = symmetry(name)
    seen = sample(source, g.at(size).inverse(), g.frame(size), Border.CONSTANT)
    assert seen.dtype == source.dtype
    np.testing.assert_array_equal(seen, NUMPY[name](source))


@given(st.integers(-40, 40), st.integers(-40, 40), sizes, borders)
def test_whole_pixel_shifts_equal_padding_and_slicing(dx, dy, size, border):
    source = planes(size)
    seen = sample(source, shift(dx, dy).at(size).inverse(), size, border)
    top, left = 40 - dy, 40 - dx
    expected = padded(source, 40, border)[:, top : top + size.height, left : left + size.width]
    np.testing.assert_array_equal(seen, expected)


@given(st.sampled_from(list(NUMPY)), st.integers(-15, 15), st.integers(-15, 15), sizes, borders)
def test_a_shift_then_a_symmetry_equals_numpy_on_the_shifted_source(name, dx, dy, size, border):
    source = planes(size)
    g = shift(dx, dy).then(symmetry(name))
    shifted = sample(source, shift(dx, dy).at(size).inverse(), size, border)
    seen = sample(source, g.at(size).inverse(), g.frame(size), border)
    np.testing.assert_array_equal(seen, NUMPY[name](shifted))


@given(sizes, st.integers(1, 30), borders)
def test_a_frame_larger_than_the_source_is_padded_on_every_side(size, reach, border):
    source = planes(size)
    wide = Size(size.width + 2 * reach, size.height + 2 * reach)
    np.testing.assert_array_equal(
        sample(source, Affine.shift(-reach, -reach), wide, border), padded(source, reach, border)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32])
def test_exact_maps_keep_the_dtype(dtype):
    source = planes(Size(5, 3)).astype(dtype)
    assert sample(source, Affine.shift(2, 0), Size(5, 3), Border.REFLECT101).dtype == dtype


@given(borders, st.sampled_from(list(NUMPY)), st.floats(-9, 9))
def test_the_source_is_never_written(border, name, dx):
    source = planes(Size(7, 5))
    before = source.copy()
    g = symmetry(name).then(shift(dx, 1))
    sample(source, g.at(Size(7, 5)).inverse(), Size(9, 9), border)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@given(st.integers(-6, 6), st.integers(-6, 6), sizes, borders.filter(lambda border: border is not Border.CONSTANT))
def test_copying_an_exact_map_equals_sampling_it(name, channels_last, dtype, dx, dy, size, border):
    geometry = symmetry(name).then(shift(dx, dy))
    source, frame = planes(size).astype(dtype), geometry.frame(size)
    to_source = geometry.at(size).inverse()
    out = np.full((frame.height, frame.width, 3), np.nan, np.float32).transpose(2, 0, 1)
    out = out if channels_last else np.full(out.shape, np.nan, np.float32)
    copy_exact(source, to_source, border, out)
    np.testing.assert_array_equal(out, sample(source, to_source, frame, border))


@given(lengths, borders)
def test_border_index_equals_padding_one_axis(length, border):
    line = np.arange(length)
    reach = 3 * length + 2
    found = border_index(np.arange(-reach, length + reach), length, border)
    constant = {"constant_values": -1} if border is Border.CONSTANT else {}
    np.testing.assert_array_equal(found, np.pad(line, reach, PAD_MODES[border], **constant))


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        (Border.REFLECT101, [2, 1, 0, 1, 2, 1, 0, 1, 2]),
        (Border.REFLECT, [2, 1, 0, 0, 1, 2, 2, 1, 0]),
        (Border.REPLICATE, [0, 0, 0, 0, 1, 2, 2, 2, 2]),
        (Border.CONSTANT, [-1, -1, -1, 0, 1, 2, -1, -1, -1]),
    ],
)
def test_border_index_of_three_pixels_by_hand(border, expected):
    start = -2 if border is Border.REFLECT101 else -3
    np.testing.assert_array_equal(border_index(np.arange(start, start + 9), 3, border), expected)


@pytest.mark.parametrize(
    ("geometry", "exact"),
    [
        (symmetry("transpose"), True),
        (rotation(90), True),  # about the centre of an even square: whole pixels
        (rotation(1), False),
        (shift(3, -2), True),
        (shift(0.5, 0), False),
        (zoom(2), False),
        (zoom(2).then(zoom(0.5)), True),
    ],
)
def test_which_maps_are_exact(geometry, exact):
    assert is_exact(geometry.at(Size(8, 8)).inverse()) is exact


def test_a_quarter_turn_about_a_half_pixel_is_not_exact():
    assert not is_exact(rotation(90).at(Size(8, 7)).inverse())


# ---- interpolated maps ----


@given(
    st.floats(-180, 180),
    st.floats(1, 3),
    st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    st.builds(Size, st.integers(2, 14), st.integers(2, 14)),
    borders,
)
def test_interpolation_equals_the_reference(degrees, factor, moved, size, border):
    source = planes(size)
    to_source = rotation(degrees).then(zoom(factor)).then(shift(*moved)).at(size).inverse()
    seen = sample(source, to_source, size, border)
    expected = bilinear(source, to_source, size, border, reach=40)
    np.testing.assert_allclose(seen, expected, atol=0.01)


@given(st.sampled_from(list(NUMPY)), st.builds(Size, st.integers(1, 30), st.integers(1, 30)), borders)
def test_interpolation_converges_to_the_exact_maps(name, size, border):
    source = planes(size)
    g = symmetry(name)
    to_source = g.at(size).inverse()
    nearly = to_source.then(Affine.shift(1e-4, -1e-4))
    assert not is_exact(nearly)
    seen = sample(source, nearly, g.frame(size), border)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, NUMPY[name](source), atol=0.1)


def test_half_a_pixel_by_hand():
    source = np.array([[[0, 100, 40]]], np.uint8)
    seen = sample(source, Affine.shift(0.5, 0), Size(3, 1), Border.REPLICATE)
    np.testing.assert_allclose(seen, [[[50, 70, 40]]])


@pytest.mark.parametrize(("border", "last"), [("reflect101", 40), ("reflect", 0), ("replicate", 0), ("constant", 0)])
def test_twice_as_large_by_hand(border, last):
    source = np.array([[[0, 40]]], np.uint8)
    # the centres of the four pixels lie at -0.25, 0.25, 0.75, 1.25 source pixels
    seen = sample(source, Affine.stretch(0.5, 1), Size(4, 1), Border(border))
    beyond = {"reflect101": 0, "reflect": 40, "replicate": 40, "constant": 0}[border]
    expected = [0.25 * last, 10, 30, 0.75 * 40 + 0.25 * beyond]
    np.testing.assert_allclose(seen[0, 0], expected, atol=1e-3)


@given(borders, st.sampled_from(list(NUMPY)), st.tuples(*[st.integers(-60, 120)] * 2))
def test_the_visible_part_gives_the_same_pixels(border, name, corner):
    """Of a frame that lies anywhere around a source much larger than it."""
    source, window = planes(Size(90, 70)), Size(14, 9)
    to_source = symmetry(name).at(window).inverse().then(Affine.shift(*corner))
    size = symmetry(name).frame(window)
    part = visible_part(Size(90, 70), to_source, size)
    found = sample(part.of(source), to_source.then(part.from_whole), size, border)
    np.testing.assert_array_equal(found, sample(source, to_source, size, border))


def test_the_visible_part_by_hand():
    """Pixels 20 to 30 and 2 to 8, with 2 more around; above the source 2 pixels are reflected, so 4 are needed."""
    assert visible_part(Size(90, 70), Affine.shift(20, 2), Size(10, 6)) == (18, 0, 32, 10)
    assert visible_part(Size(90, 70), Affine.shift(20, -40), Size(10, 6)) == (18, 0, 32, 42)
    assert visible_part(Size(20, 12), Affine.shift(5, 2), Size(10, 6)) == (0, 0, 20, 12)
