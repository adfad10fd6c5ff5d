"""The graph's views equal those made on the CPU: copied pixels to the bit, sampled ones to rounding."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.compiled import Fronts, check_front
from tests.support.fronts import ALL, COLORS, IMAGENET, IMAGES, RESIZES, resized, views_of
from tests.support.patterns import noise
from tests.support.preparations import SAMPLED_VIEWS
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.front import FixedSizes, front
from tta_server.compiled.rows import FrontRow, front_table, stack_canvases
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View


@resized
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_view_and_border_equals_the_cpus(prep, dtype):
    prep = replace(prep, dtype=np.dtype(dtype), normalization=Normalization() if dtype == "uint8" else IMAGENET)
    assert check_front(prep, IMAGES, ALL) > 100


@resized
@pytest.mark.parametrize("channels", Channels)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_layouts_and_channels(prep, channels, layout):
    by = Normalization(255.0, (0.4,), (0.3,)) if channels is Channels.GREY else IMAGENET
    prep = replace(prep, channels=channels, layout=layout, normalization=by)
    assert check_front(prep, IMAGES, views_of(["identity", "transpose", *SAMPLED_VIEWS[:3], *COLORS])) > 0


@resized
@settings(max_examples=25)
@given(data=st.data())
def test_compositions_of_any_numbers(prep, data):
    step = st.one_of(
        st.sampled_from(["hflip", "vflip", "grayscale"]),
        st.fixed_dictionaries({"rotate": st.floats(-45, 45)}),
        st.fixed_dictionaries({"zoom": st.floats(1, 2)}),
        st.fixed_dictionaries({"shift": st.tuples(st.floats(-15, 15), st.integers(-15, 15)).map(list)}),
        st.fixed_dictionaries({"contrast": st.floats(0.5, 2)}),
        st.fixed_dictionaries({"scale": st.sampled_from([1.0, 1.25])}),
    )
    specs = data.draw(st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=6))
    borders = data.draw(st.lists(st.sampled_from(Border), min_size=len(specs), max_size=len(specs)))
    views = [replace(read_view(spec), border=border) for spec, border in zip(specs, borders, strict=True)]
    check_front(prep, IMAGES, [View(), *views])


@pytest.mark.parametrize(
    "size", [Size(600, 64), Size(64, 1200), Size(3000, 64), pytest.param(Size(1500, 1500), marks=pytest.mark.slow)]
)
def test_on_large_canvases_of_noise_views_differ_in_proportion_to_the_longer_side(size):
    """Coordinates are float32: at most 0.02 grey levels for each 300 pixels."""
    prep = Preprocessing(multiple=4, max_size=4096, normalization=Normalization(scale=1.0))
    specs = [{"rotate": 1}, {"rotate": -7}, {"zoom": 1.2}, {"shift": [2.5, -1.25]}, ["hflip", {"rotate": 33.3}]]
    for view in map(read_view, specs):
        for _, made, expected in Fronts(prep).batches([noise(size)], [view]):
            assert 0 < np.abs(made.astype(np.float64) - expected).max() <= 0.02 * max(size) / 300


def test_an_image_of_one_pixel_and_of_one_row():
    prep = Preprocessing(multiple=4, normalization=IMAGENET)
    images = [noise(Size(1, 1)), noise(Size(3, 1)), noise(Size(1, 4))]
    check_front(prep, images, views_of(["identity", "rot90", "hflip", {"shift": [1, 0]}, {"shift": [0.5, 0.25]}]))


def test_tiles_are_rows_of_one_canvas():
    prep = Preprocessing(multiple=8, max_size=64, tile=48, overlap=16, normalization=IMAGENET)
    pixels = noise(Size(100, 70))
    canvas, view = prep.canvas(pixels, 1.0), read_view("hflip")
    tiles = prep.tiles(Size(100, 70))
    assert len(tiles) > 2
    session = GraphSession(front(prep))
    for tile in tiles:
        placement = prep.place(view, Size(100, 70), tile)
        expected = prep.empty(1, placement.tensor)
        prep.write(canvas, view, placement, expected[0])
        rows = front_table([FrontRow(view, placement, 0)], prep.channels)
        size = placement.tensor
        given_inputs = {
            "slab": stack_canvases([canvas.planes]),
            "rows": rows,
            "slab_size": np.array([100, 70], np.float32),
            "x": np.arange(size.width, dtype=np.float32),
            "y": np.arange(size.height, dtype=np.float32),
        }
        np.testing.assert_array_equal(session.run(given_inputs)["input"], expected)


def test_fixed_sizes_and_a_slab_with_channels_last():
    prep = RESIZES["exact"]
    views = [read_view(spec) for spec in ("identity", "vflip", {"rotate": 20})]
    rows, made, _ = next(Fronts(prep).batches(IMAGES[:1], views))
    canvas = prep.canvas(IMAGES[0], 1.0)
    slab = stack_canvases([canvas.planes])
    fixed = front(prep, FixedSizes(tensor=Size(37, 44), slab=Size(37, 44)), slab_layout="NHWC")
    (found,) = (
        GraphSession(fixed)
        .run({"slab": slab.transpose(0, 2, 3, 1).copy(), "rows": front_table(rows, prep.channels)})
        .values()
    )
    np.testing.assert_array_equal(found, made)


@resized
def test_the_graph_is_valid_and_has_no_node_that_a_gpu_leaves_to_the_cpu(prep):
    made = onnx.load_from_string(front(prep))
    onnx.checker.check_model(made, full_check=True)
    assert [opset.version for opset in made.opset_import] == [17]
    assert not {"Shape", "Size", "Pad", "Loop", "MatMul"} & {node.op_type for node in made.graph.node}
