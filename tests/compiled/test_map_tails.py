"""Maps that a graph moves back and sums merge as the maps do one by one."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.preparations import EXACT_VIEWS, SAMPLED_VIEWS
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.map_rows import MAP_WIDTH, MapColumn, MapRow, all_exact, map_inputs, map_table
from tta_server.compiled.map_tails import map_tail
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.graphs import owner_matrix
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.maps import MapSums, OutputGrid, map_size, output_grid
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("a", "b", "c")
SHAPES = {"z": (None, 3, None, None)}
TASKS = {
    "classes": Segmentation(LABELS, MapsOutput("logits"), SHAPES),
    "corner": Segmentation(LABELS, MapsOutput("logits", offset=0), SHAPES),
    "labels": Segmentation(LABELS, MapsOutput("logits", multilabel=True, threshold=0.4), SHAPES),
}
MERGES = [(name, merge) for name, task in TASKS.items() for merge in task.merges if merge != "max"]
PREPARATIONS = {
    "free": Preprocessing(multiple=16),
    "exact": Preprocessing(Size(64, 48), Resize.EXACT),
    "letterbox": Preprocessing(Size(64, 64), Resize.LETTERBOX),
}
IMAGES = [Size(60, 41), Size(62, 45), Size(57, 48)]
"""All are padded to 64x48 by `free`."""
VIEWS = [read_view(spec) for spec in [*EXACT_VIEWS, *SAMPLED_VIEWS]]
summed = pytest.mark.parametrize(("name", "merge"), MERGES)


def placed(prep, views, tensor):
    """Each view of each image, where its input has that size: (number of the image, view, placement)."""
    found = [(n, view, prep.place(view, image)) for n, image in enumerate(IMAGES) for view in views]
    return [each for each in found if each[2].tensor == tensor]


def smooth_maps(rows, height, width, seed=0):
    """Scores (B, 3, h, w) that change slowly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    a, b, c = rng.uniform(0.5, 3, (3, rows, 3, 1, 1))
    return (2 * np.sin(x / (3 + a) + b) + 2 * np.cos(y / (3 + c) - b)).astype(np.float32)


def constant_maps(rows, height, width):
    """Scores (B, 3, h, w) with one class everywhere, where no rounding moves a vote."""
    classes = np.arange(rows)[:, None] % 3 == np.arange(3)
    z = np.where(classes, 5, -5)[:, :, None, None]
    return np.broadcast_to(z, (rows, 3, height, width)).astype(np.float32)


def graph_sums(task, merge, z, items, weights):
    """The sums of each image, and which rows are sound."""
    spec = task.sums(merge, ResponseSpec())
    placements = [placement for _, _, placement in items]
    grid = output_grid(map_size(z), placements[0], spec.offset)
    rows = [MapRow(placement, weight) for placement, weight in zip(placements, weights, strict=True)]
    table = map_table(rows, grid, Size(z.shape[3], z.shape[2]))
    images = np.array([n for n, _, _ in items])
    sizes = {n: grid.cells(placement.whole) for n, _, placement in items}
    most = Size(max(size.width for size in sizes.values()), max(size.height for size in sizes.values()))
    session = GraphSession(map_tail(spec, 3, z.dtype, all_exact(table)))
    found = session.run(map_inputs(z, table, owner_matrix(images, "float32"), most))
    total = found["total"].reshape(-1, 3, most.height, most.width)
    coverage = found["weights"].reshape(-1, most.height, most.width)
    return {
        n: MapSums(total[n][:, : size.height, : size.width], coverage[n][: size.height, : size.width], grid)
        for n, size in sizes.items()
    }, found["sound"]


def check(task, merge, z, items, weights, tolerance):
    """Returns how many images there are."""
    found, sound = graph_sums(task, merge, z, items, weights)
    for n, sums in found.items():
        frame = ImageFrame(IMAGES[n], next(placement for m, _, placement in items if m == n))
        one_by_one, merged = (task.accumulator(merge, ResponseSpec(), frame) for _ in range(2))
        count = 0
        for row, (m, _, placement) in enumerate(items):
            if m != n:
                continue
            prediction = task.decode({"z": z}, row, placement, frame)
            assert sound[row] == task.is_sound(prediction)
            if sound[row]:
                one_by_one.add(prediction, weights[row])
                count += 1
        if count:
            merged.add_sums(sums)
            expected, result = one_by_one.result(), merged.result()
            assert result.grid == expected.grid
            np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=tolerance)
    return len(found)


@summed
@pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
def test_exact_views_of_several_images(name, merge, prep):
    """The graph without interpolation."""
    tensor = prep.place(View(), IMAGES[0]).tensor
    views = [view for view in VIEWS if view.scale == 1 and prep.place(view, IMAGES[0]).exact]
    items = placed(prep, views, tensor)
    z = smooth_maps(len(items), tensor.height, tensor.width)
    assert check(TASKS[name], merge, z, items, np.linspace(0.5, 2, len(items)).tolist(), 2e-6)


@summed
@pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("stride", [1, 4])
def test_all_views_of_several_images(name, merge, prep, stride):
    tensor = prep.place(View(), IMAGES[0]).tensor
    items = placed(prep, VIEWS, tensor)
    z = smooth_maps(len(items), tensor.height // stride, tensor.width // stride)
    if merge == "vote":
        z = constant_maps(len(items), tensor.height // stride, tensor.width // stride)
    assert check(TASKS[name], merge, z, items, np.linspace(0.5, 2, len(items)).tolist(), 2e-5) == len(IMAGES)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.floats(-45, 45), st.floats(1, 1.5), st.floats(-8, 8)), min_size=1, max_size=4),
    st.sampled_from(list(PREPARATIONS)),
    st.sampled_from(["float32", "float16", "float64"]),
)
def test_rotations_zooms_and_shifts(numbers, prep, dtype):
    prep = PREPARATIONS[prep]
    views = [
        read_view([{"rotate": angle}, {"zoom": zoom}, {"shift": [shift, -shift / 2]}]) for angle, zoom, shift in numbers
    ]
    tensor = prep.place(View(), IMAGES[0]).tensor
    items = placed(prep, [View(), *views], tensor)
    z = smooth_maps(len(items), tensor.height, tensor.width).astype(dtype)
    check(TASKS["classes"], "mean_probabilities", z, items, [1.0] * len(items), 2e-5)


def test_a_map_that_is_not_sound_is_left_out_and_spoils_no_other():
    prep = PREPARATIONS["exact"]
    items = placed(prep, [read_view("identity"), read_view("hflip")], Size(64, 48))
    z = smooth_maps(len(items), 48, 64)
    z[0, 1, 3, 3], z[2, :, 5, 5], z[3, 0, 2, 2] = np.nan, -np.inf, -np.inf
    _, sound = graph_sums(TASKS["classes"], "mean_probabilities", z, items, [1.0] * len(items))
    assert sound.tolist() == [False, True, False, True, True, True]
    for merge in TASKS["classes"].merges:
        if merge != "max":
            check(TASKS["classes"], merge, z, items, [1.0] * len(items), 2e-6)


def test_the_row_of_a_mirrored_view_by_hand():
    """A frame of 16x8 in a letterbox of 16x16, maps of stride 4: cells 1 and 2 of 4 rows belong to the frame."""
    prep = Preprocessing(Size(16, 16), Resize.LETTERBOX)
    row = MapRow(prep.place(read_view("hflip"), Size(16, 8)), 0.5)
    (table,) = map_table([row], OutputGrid((4, 4)), Size(4, 4))
    assert len(table) == MAP_WIDTH
    assert table[MapColumn.MATRIX : MapColumn.CELLS].tolist() == [-1, 0, 4, 0, 1, 1]
    assert table[MapColumn.CELLS : MapColumn.SEEN].tolist() == [0, 3, 1, 2]
    assert table[MapColumn.LAST : MapColumn.MIRRORED].tolist() == [4, 2, 1, 0.5]
    assert table[MapColumn.MIRRORED :].tolist() == [1, 0, 3, 1, 2]


def test_a_shifted_view_covers_what_it_shows_by_hand():
    """Content moves 2 of 8 pixels to the right: the plain frame's last two columns are not shown."""
    prep = Preprocessing(Size(8, 8), Resize.EXACT)
    placement = prep.place(read_view({"shift": [2, 0]}), Size(8, 8))
    sums, _ = graph_sums(TASKS["classes"], "vote", np.zeros((1, 3, 8, 8), np.float32), [(0, None, placement)], [3.0])
    assert sums[0].weights[0].tolist() == [3, 3, 3, 3, 3, 3, 0, 0]
    assert sums[0].total[:, 0, 0].tolist() == [3, 0, 0]


@summed
@pytest.mark.parametrize("exact_only", [True, False])
def test_the_graph_is_valid_and_has_no_node_that_a_gpu_leaves_to_the_cpu(name, merge, exact_only):
    made = onnx.load_from_string(map_tail(TASKS[name].sums(merge, ResponseSpec()), 3, "float16", exact_only))
    onnx.checker.check_model(made, full_check=True)
    assert not {"Shape", "Size", "Pad", "Loop"} & {node.op_type for node in made.graph.node}


@pytest.mark.parametrize(
    ("merge", "spec"),
    [
        ("max", ResponseSpec()),
        ("vote", ResponseSpec(frozenset(["views"]))),
        ("vote", ResponseSpec(frozenset(["agreement"]))),
        ("vote", ResponseSpec(tensors=frozenset(["AGREEMENT"]))),
    ],
)
def test_where_maps_are_needed_there_are_no_sums(merge, spec):
    assert TASKS["classes"].sums(merge, spec) is None
