"""The kernel that makes views, on a real device, makes what the graph and `Preprocessing.write` make on the CPU.

A machine with a GPU may lack the other tests' packages: pytest and the package with the extra `compile` are enough for
`pytest --noconftest -c /dev/null --rootdir . tests/gpu`.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.support.compiled import check_front
from tests.support.kernel_views import KernelFront
from tests.support.patterns import noise, smooth
from tta_server.backends.cuda.driver import (
    DeviceBuffer,
    PinnedBuffer,
    Stream,
    count_devices,
    download,
    fill_zero,
    open_device,
    upload,
)
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.compiled.rows import Column, FrontRow, front_table, stack_canvases
from tta_server.errors import OutOfDeviceMemory
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.view_kernel import kernel_constants
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(count_devices() == 0, reason="there is no CUDA device")]

IMAGENET = Normalization(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESIZES = {
    "crop": Preprocessing(Size(75, 66), Resize.SHORT, 80, normalization=IMAGENET),
    "exact": Preprocessing(Size(57, 84), Resize.EXACT, normalization=IMAGENET),
    "letterbox": Preprocessing(Size(70, 70), Resize.LETTERBOX, normalization=IMAGENET),
    "multiple": Preprocessing(multiple=16, normalization=IMAGENET),
}
SPECS = [
    "identity",
    "hflip",
    "vflip",
    {"rot90": 1},
    {"rot90": 2},
    {"rot90": 3},
    "transpose",
    "antitranspose",
    {"shift": [5, -3]},
    {"window": "top_left"},
    {"scale": 1.25},
    ["hflip", {"shift": [3, 2]}, {"rot90": 1}],
    {"rotate": 17},
    {"zoom": 1.3},
    {"shift": [2.5, -1.25]},
    {"crop": 0.8},
    {"brightness": 1.4},
    {"saturation": 1.6},
    [{"hue": 25}, {"rotate": 12}],
    "grayscale",
]
VIEWS = [replace(read_view(spec), border=border) for spec in SPECS for border in Border]
IMAGES = [noise(Size(83, 71)), smooth(Size(71, 90))]


@pytest.fixture(scope="module")
def device():
    return open_device(0)


def random_views(seed, count):
    """Compositions of a rotation, a zoom, a shift and a colour, with any border."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        steps = [
            {"rotate": float(rng.uniform(-45, 45))},
            {"zoom": float(rng.uniform(1, 2))},
            {"shift": [float(rng.uniform(-15, 15)), int(rng.integers(-40, 40))]},
            {"contrast": float(rng.uniform(0.5, 2))},
            "hflip",
            {"rot90": int(rng.integers(1, 4))},
        ]
        chosen = rng.choice(len(steps), size=rng.integers(1, 4), replace=False)
        yield replace(read_view([steps[k] for k in chosen]), border=list(Border)[rng.integers(4)])


def variants():
    """Each type, layout and order of channels with each way to resize."""
    for dtype in ("float32", "float16", "uint8"):
        for layout in ("NCHW", "NHWC"):
            for channels in Channels:
                by = Normalization(255.0, (0.4,), (0.3,)) if channels is Channels.GREY else IMAGENET
                by = Normalization() if dtype == "uint8" else by
                yield {"dtype": np.dtype(dtype), "layout": layout, "channels": channels, "normalization": by}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("variant", list(variants()), ids=lambda found: "-".join(map(str, list(found.values())[:3])))
def test_views_equal_those_made_on_the_cpu(device, resize, variant):
    prep = replace(RESIZES[resize], **variant)
    assert check_front(prep, IMAGES, [View(), *VIEWS], partial(KernelFront, device)) > 40


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_random_views_equal_those_made_on_the_cpu(device, resize, dtype):
    prep = replace(RESIZES[resize], dtype=np.dtype(dtype))
    check_front(prep, IMAGES, list(random_views(0, 40)), partial(KernelFront, device))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_row_without_a_canvas_is_zero(device, layout, dtype):
    prep = replace(RESIZES["letterbox"], layout=layout, dtype=np.dtype(dtype))
    pixels = noise(Size(70, 50))
    placement = prep.place(View(), Size(70, 50))
    table = np.repeat(front_table([FrontRow(View(), placement, 0)], prep.channels), 3, axis=0)
    table[1:, Column.IMAGE] = -1, 1
    slab = stack_canvases([prep.canvas(pixels, 1.0).planes])
    made = KernelFront(device, prep).run(slab, table, placement.tensor)
    assert not made[1:].any()
    assert (made[0] != 0).mean() > 0.9


def test_a_slab_of_over_2_gigabytes_and_a_large_batch(device):
    device.activate()
    prep = Preprocessing(Size(224, 224), Resize.SHORT, 256, normalization=IMAGENET)
    images, rows, side = 180, 256, 2048
    views = [read_view(spec) for spec in ("identity", "hflip", {"rot90": 1}, "transpose")]
    canvas = prep.canvas(noise(Size(256, 256)), 1.0)
    placements = [prep.place(view, Size(256, 256)) for view in views]
    table = front_table(
        [FrontRow(view, place, images - 1) for view, place in zip(views, placements, strict=True)] * (rows // 4),
        prep.channels,
    )
    last = np.zeros((3, side, side), np.uint8)
    last[:, :256, :256] = canvas.planes
    made, expected = prep.empty(rows, Size(224, 224)), prep.empty(4, Size(224, 224))
    slab, given, out = DeviceBuffer(images * last.nbytes), DeviceBuffer(table.nbytes), DeviceBuffer(made.nbytes)
    upload(slab.pointer + (images - 1) * last.nbytes, last, last.nbytes, 0)
    upload(given.pointer, table, table.nbytes, 0)
    kernel = ViewKernel(device, kernel_constants(prep))
    kernel.launch(slab.pointer, (images, *last.shape), given.pointer, rows, out.pointer, Size(224, 224), 0)
    download(made, out.pointer, made.nbytes, 0)
    device.synchronize(0)
    for view, placement, row in zip(views, placements, expected, strict=True):
        prep.write(canvas, view, placement, row)
    np.testing.assert_array_equal(made.reshape(rows // 4, 4, -1), np.repeat(expected.reshape(1, 4, -1), rows // 4, 0))
    for buffer in (slab, given, out):
        buffer.free()


def test_bytes_go_to_the_device_and_back(device):
    device.activate()
    assert device.name
    assert device.capability >= (7, 5)
    assert 0 < device.free_bytes() <= device.memory_bytes
    size = 1 << 24
    stream, memory, pinned = Stream(), DeviceBuffer(size), PinnedBuffer(size)
    sent = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    pinned.array[:] = sent
    upload(memory.pointer, pinned.pointer, size, stream.handle)
    fill_zero(memory.pointer + size // 2, size // 2, stream.handle)
    found = np.empty(size, np.uint8)
    download(found, memory.pointer, size, stream.handle)
    device.synchronize(stream.handle)
    np.testing.assert_array_equal(found[: size // 2], sent[: size // 2])
    assert not found[size // 2 :].any()
    for part in (memory, pinned):
        part.free()
    stream.close()


def test_more_memory_than_there_is_is_refused_and_the_device_goes_on(device):
    device.activate()
    with pytest.raises(OutOfDeviceMemory):
        DeviceBuffer(device.memory_bytes * 2)
    memory = DeviceBuffer(1 << 20)
    fill_zero(memory.pointer, 1 << 20, 0)
    device.synchronize(0)
    memory.free()
