"""The kernel's source, run on the CPU by a stub of the driver, makes what the graph and `Preprocessing.write` make."""

import hashlib
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.compiled import check_front
from tests.support.cuda import KERNELS, stub_driver, stub_library  # noqa: F401 - fixtures
from tests.support.fronts import ALL, COLORS, IMAGENET, IMAGES, RESIZES, resized, views_of
from tests.support.kernel_views import KernelFront
from tests.support.patterns import noise
from tests.support.preparations import SAMPLED_VIEWS
from tta_server.backends.cuda.driver import open_device
from tta_server.backends.cuda.view_kernel import MAX_ROWS, TABLE_WIDTH, ViewKernel
from tta_server.compiled.rows import WIDTH, Column, FrontRow, front_table, stack_canvases
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.view_kernel import kernel_constants
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View

GREY = Normalization(255.0, (0.4,), (0.3,))


@pytest.fixture
def device(stub_driver):  # noqa: F811
    return open_device(0)


@resized
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_view_and_border_equals_the_cpus(device, prep, dtype):
    prep = replace(prep, dtype=np.dtype(dtype), normalization=Normalization() if dtype == "uint8" else IMAGENET)
    assert check_front(prep, IMAGES, ALL, partial(KernelFront, device)) > 100


@resized
@pytest.mark.parametrize("channels", Channels)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_layouts_and_channels(device, prep, channels, layout, dtype):
    by = GREY if channels is Channels.GREY else IMAGENET
    prep = replace(prep, channels=channels, layout=layout, normalization=by, dtype=np.dtype(dtype))
    views = views_of(["identity", "transpose", *SAMPLED_VIEWS[:3], *COLORS])
    assert check_front(prep, IMAGES, views, partial(KernelFront, device)) > 0


STEPS = st.one_of(
    st.sampled_from(["hflip", "vflip", "transpose", "grayscale"]),
    st.fixed_dictionaries({"rot90": st.integers(1, 3)}),
    st.fixed_dictionaries({"rotate": st.floats(-45, 45)}),
    st.fixed_dictionaries({"zoom": st.floats(1, 2)}),
    st.fixed_dictionaries({"shift": st.tuples(st.floats(-15, 15), st.integers(-15, 15)).map(list)}),
    st.fixed_dictionaries({"shift": st.tuples(st.integers(-60, 60), st.integers(-60, 60)).map(list)}),
    st.fixed_dictionaries({"contrast": st.floats(0.5, 2)}),
    st.fixed_dictionaries({"hue": st.floats(-90, 90)}),
    st.fixed_dictionaries({"scale": st.sampled_from([1.0, 1.25])}),
)
SPECS = st.lists(st.tuples(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from(Border)), min_size=1, max_size=6)
NORMALIZATIONS = st.sampled_from([IMAGENET, Normalization(), Normalization(1.0), Normalization(127.5, (1.0,))])
SIZES = st.builds(Size, st.integers(60, 95), st.integers(60, 95))


@resized
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs=SPECS, sizes=st.lists(SIZES, min_size=1, max_size=3), by=NORMALIZATIONS, more=st.data())
def test_compositions_of_any_numbers_on_canvases_of_any_sizes(device, prep, dtype, specs, sizes, by, more):
    channels = more.draw(st.sampled_from([Channels.RGB, Channels.BGR]))
    layout = more.draw(st.sampled_from(["NCHW", "NHWC"]))
    prep = replace(prep, dtype=np.dtype(dtype), normalization=by, channels=channels, layout=layout)
    views = [replace(read_view(spec), border=border) for spec, border in specs]
    images = [noise(size, seed=number) for number, size in enumerate(sizes)]
    check_front(prep, images, [View(), *views], partial(KernelFront, device))


def test_an_image_of_one_pixel_and_of_one_row(device):
    prep = Preprocessing(multiple=4, normalization=IMAGENET)
    images = [noise(Size(1, 1)), noise(Size(3, 1)), noise(Size(1, 4))]
    views = views_of(["identity", "rot90", "hflip", {"shift": [1, 0]}, {"shift": [0.5, 0.25]}])
    check_front(prep, images, views, partial(KernelFront, device))


def one_view(prep, spec, image):
    """Return slab, table and size of the input for one view of an image (H, W, 3)."""
    view, size = read_view(spec), Size(image.shape[1], image.shape[0])
    placement, canvas = prep.place(view, size), prep.canvas(image, view.scale)
    table = front_table([FrontRow(view, placement, 0)], prep.channels)
    return stack_canvases([canvas.planes]), table, placement.tensor


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("identity", [[0, 10, 20], [30, 40, 50]]),
        ("hflip", [[20, 10, 0], [50, 40, 30]]),
        ({"shift": [1, 0], "border": "constant"}, [[0, 0, 10], [0, 30, 40]]),
        ({"shift": [1, 0], "border": "replicate"}, [[0, 0, 10], [30, 30, 40]]),
        ({"shift": [1, 0], "border": "reflect101"}, [[10, 0, 10], [40, 30, 40]]),
        ({"shift": [0.5, 0], "border": "replicate"}, [[0, 5, 15], [30, 35, 45]]),
        ({"brightness": 2}, [[0, 20, 40], [60, 80, 100]]),
    ],
)
def test_values_computed_by_hand(device, spec, expected):
    prep = Preprocessing(channels=Channels.GREY, normalization=Normalization(10.0, (1.0,), (2.0,)))
    pixels = np.repeat(np.array([[0, 10, 20], [30, 40, 50]], np.uint8)[:, :, None], 3, axis=2)
    made = KernelFront(device, prep)(*one_view(prep, spec, pixels))
    np.testing.assert_allclose(made[0, 0], (np.array(expected) / 10 - 1) / 2, atol=1e-6)


def test_halves_of_a_model_of_bytes_are_rounded_to_even(device):
    prep = Preprocessing(channels=Channels.GREY, dtype=np.dtype(np.uint8))
    pixels = np.repeat(np.array([[0, 1, 2, 3]], np.uint8)[:, :, None], 3, axis=2)
    made = KernelFront(device, prep)(*one_view(prep, {"shift": [0.5, 0], "border": "replicate"}, pixels))
    np.testing.assert_array_equal(made[0, 0], [[0, 0, 2, 2]])  # of 0, 0.5, 1.5, 2.5


def test_positions_of_exact_views_are_rounded(device):
    prep = RESIZES["exact"]
    slab, table, tensor = one_view(prep, "transpose", noise(Size(37, 44)))
    front = KernelFront(device, prep)
    expected = front(slab, table, tensor)
    table[0, [Column.MATRIX + 2, Column.MATRIX + 5]] -= np.float32(0.25)
    np.testing.assert_array_equal(front(slab, table, tensor), expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("image", [-1, 1])
def test_a_row_without_a_canvas_is_zero_and_others_are_not(device, layout, dtype, image):
    prep = replace(RESIZES["letterbox"], layout=layout, dtype=np.dtype(dtype))
    slab, table, tensor = one_view(prep, "identity", noise(Size(60, 30)))
    table = np.repeat(table, 3, axis=0)
    table[1, Column.IMAGE] = image
    table[2] = 0
    table[2, Column.IMAGE] = image
    made = KernelFront(device, prep).run(slab, table, tensor)
    assert not made[1:].any()
    assert (made[0] != 0).mean() > 0.9


def test_no_rows_are_no_work_and_others_channels_are_refused(device):
    prep = RESIZES["exact"]
    kernel = ViewKernel(device, kernel_constants(prep))
    kernel.launch(0, (1, 3, 8, 8), 0, 0, 0, Size(37, 44), 0)
    with pytest.raises(ValueError, match="5 rows of 1 channels: the kernel makes up to 65535 of"):
        kernel.launch(0, (1, 1, 8, 8), 0, 5, 0, Size(37, 44), 0)
    with pytest.raises(ValueError, match="65536 rows of 3 channels"):
        kernel.launch(0, (1, 3, 8, 8), 0, MAX_ROWS + 1, 0, Size(37, 44), 0)


def test_the_table_is_that_of_the_graph():
    assert TABLE_WIDTH == WIDTH


PTX = (KERNELS / "views.ptx").read_text("ascii")


def test_the_ptx_was_made_of_the_sources_beside_it():
    digest = hashlib.sha256((KERNELS / "views.cuh").read_bytes() + (KERNELS / "views.cu").read_bytes()).hexdigest()
    assert PTX.startswith(f"// sources: {digest}\n"), "the kernel's sources have changed: run `make ptx`, with nvcc"


def test_the_ptx_runs_on_all_drivers_and_contracts_no_products_and_sums():
    assert ".version 6.3\n.target sm_75\n" in PTX
    assert not re.search(r"\s(fma\.|mad\.\w*\.?f32|(add|sub|mul)\.f32|\w+\.approx|\w+\.\w+\.ftz)", PTX)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_ptx_has_a_kernel_for_each_type_and_depth(dtype, depth):
    assert f".visible .entry views_{dtype}_{depth}(" in PTX
