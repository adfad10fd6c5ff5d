"""The inputs of a front, by hand."""

import numpy as np

from tests.support.patterns import noise
from tta_server.compiled.rows import WIDTH, FrontRow, front_table, stack_canvases
from tta_server.imaging.normalization import Channels
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

CROP = Preprocessing(Size(40, 30), Resize.SHORT, 50)


def table(view, channels=Channels.RGB, prep=CROP):
    return front_table([FrontRow(view, prep.place(view, Size(100, 50)), 3)], channels)[0].tolist()


def test_the_plain_view_of_a_centre_crop():
    # The canvas is 100x50, the window 40x30 in its middle, 30 from the left and 10 from the top.
    identity = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert table(View()) == [3, 1, 0, 30, 0, 1, 10, 100, 50, 0, 0, 40, 30, 0, 1, 0, *identity]
    assert len(table(View())) == WIDTH


def test_a_mirror_maps_frame_to_canvas_from_the_other_side():
    assert table(read_view("hflip"))[1:7] == [-1, 0, 70, 0, 1, 10]


def test_borders_have_codes():
    borders = ["reflect101", "reflect", "replicate", "constant"]
    assert [table(read_view({"steps": ["hflip"], "border": border}))[13] for border in borders] == [0, 1, 2, 3]


def test_a_sampled_view_is_not_exact_and_a_coloured_one_is_marked():
    assert table(read_view({"rotate": 10}))[14:16] == [0, 0]
    assert table(read_view({"brightness": 2}))[14:28] == [1, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0]


def test_colour_is_in_the_models_order_of_channels():
    red_only = read_view({"saturation": 0})
    np.testing.assert_allclose(table(red_only, Channels.RGB)[16:20], [0.299, 0.587, 0.114, 0], rtol=1e-6)
    np.testing.assert_allclose(table(red_only, Channels.BGR)[16:20], [0.114, 0.587, 0.299, 0], rtol=1e-6)


def test_of_one_grey_channel_there_is_a_factor_and_an_offset():
    # contrast 0.5 about 127.5
    assert table(read_view({"contrast": 0.5}), Channels.GREY)[16:] == [0.5, 0, 0, 63.75, *[0] * 8]


def test_letterbox_bars_shift_the_frame():
    boxed = Preprocessing(Size(60, 60), Resize.LETTERBOX)
    assert table(View(), prep=boxed)[9:13] == [0, 15, 60, 30]


def test_canvases_of_several_sizes_are_padded_with_zeros():
    small, large = noise(Size(3, 2)).transpose(2, 0, 1), noise(Size(2, 4)).transpose(2, 0, 1)
    slab = stack_canvases([small, large])
    assert slab.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(slab[0, :, :2, :3], small)
    np.testing.assert_array_equal(slab[1, :, :4, :2], large)
    assert slab.sum() == int(small.sum()) + int(large.sum())
