"""Heat maps that a graph moves back and sums merge as the maps do one by one, and its peaks are those of each view."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.keypoints import LABELS, PAIRS, PREPARATIONS, VIEWS, task
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.heat_tails import heat_tail
from tta_server.compiled.map_rows import MapRow, all_exact, map_inputs, map_table
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.graphs import owner_matrix, shaped_maps
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.maps import map_size, output_grid
from tta_server.tasks.points.heatmaps import peaks, points_of
from tta_server.tasks.points.poses import HeatSums
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

TASKS = {
    "probabilities": task("heatmaps"),
    "logits": task("heatmaps", scores="logits"),
    "corner": task("heatmaps", offset=0.0),
    "no pairs": task("heatmaps", pairs=()),
    "raw": task("heatmaps", scores="raw"),
}
SPEC = ResponseSpec()
IMAGES = [Size(60, 41), Size(62, 45), Size(57, 48)]


def placed(prep, views, tensor):
    """Each view of each image, where its input has that size: (number of the image, placement)."""
    found = [(n, prep.place(view, image)) for n, image in enumerate(IMAGES) for view in views]
    return [each for each in found if each[1].tensor == tensor]


SPREADS = {"logits": (8, -4), "raw": (1.3, -0.35)}
"""Task -> factor and shift that make its scores of probabilities; those of others are probabilities."""


def blobs(rows, height, width, seed=0, name=""):
    """Heat maps (B, J, h, w), each with one peak, as the scores of that task."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    places = rng.uniform(0, 1, (2, rows, len(LABELS), 1, 1)) * np.array([width - 1, height - 1]).reshape(2, 1, 1, 1, 1)
    reach = rng.uniform(1.5, 3, (rows, len(LABELS), 1, 1))
    maps = np.exp(-((x - places[0]) ** 2 + (y - places[1]) ** 2) / reach**2)
    factor, shift = SPREADS.get(name, (1, 0))
    return (factor * maps + shift).astype(np.float32)


def graph_sums(keypoints, z, items, weights):
    """What the graph finds, with the sums of each image."""
    spec = keypoints.sums("mean_heatmaps", SPEC)
    grid = output_grid(map_size(z), items[0][1], spec.offset)
    table = map_table([MapRow(p, w) for (_, p), w in zip(items, weights, strict=True)], grid, map_size(z))
    images = np.array([n for n, _ in items])
    sizes = {n: grid.cells(placement.whole) for n, placement in items}
    most = Size(max(size.width for size in sizes.values()), max(size.height for size in sizes.values()))
    session = GraphSession(heat_tail(spec, len(LABELS), z.dtype, all_exact(table)))
    found = shaped_maps(
        session.run(map_inputs(z, table, owner_matrix(images, "float32"), most, True)), len(LABELS), most
    )
    sums = {}
    for n, size in sizes.items():
        rows = [row for row, (m, _) in enumerate(items) if m == n and found["sound"][row]]
        part = found["total"][n][:, : size.height, : size.width], found["weights"][n][: size.height, : size.width]
        sums[n] = HeatSums(*part, grid, found["peaks"][rows], [(items[row][1], weights[row]) for row in rows])
    return found, sums


def check(keypoints, z, items, weights, tolerance=1e-5):
    found, sums = graph_sums(keypoints, z, items, weights)
    for n, own in sums.items():
        plain = next(placement for m, placement in items if m == n)
        frame = ImageFrame(IMAGES[n], plain)
        one_by_one, merged = (keypoints.accumulator("mean_heatmaps", SPEC, frame) for _ in range(2))
        for row, (m, placement) in enumerate(items):
            if m == n:
                pose = keypoints.decode({"points": z}, row, placement, frame)
                assert found["sound"][row] == keypoints.is_sound(pose)
                if found["sound"][row]:
                    one_by_one.add(pose, weights[row])
        if not own.views:
            continue
        merged.add_sums(own)
        expected, result = one_by_one.result(), merged.result()
        np.testing.assert_allclose(result.confidence, expected.confidence, rtol=0, atol=tolerance)
        np.testing.assert_allclose(result.xy, expected.xy, rtol=0, atol=1e-4)
        np.testing.assert_allclose(result.spread, expected.spread, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(result.visible_in, expected.visible_in)
    return len(sums)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("stride", [1, 4])
def test_all_views_of_several_images(name, prep, stride):
    tensor = prep.place(View(), IMAGES[0]).tensor
    items = placed(prep, [read_view(spec) for spec, _ in VIEWS], tensor)
    z = blobs(len(items), tensor.height // stride, tensor.width // stride, name=name)
    assert check(TASKS[name], z, items, np.linspace(0.5, 2, len(items)).tolist())


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float16"]), st.integers(3, 12))
def test_peaks_are_those_of_each_map(seed, dtype, side):
    """Also at the border, where cells around the peak are outside."""
    prep = Preprocessing(Size(side, side), Resize.EXACT)
    items = [(0, prep.place(View(), IMAGES[0]))] * 3
    z = blobs(3, side, side, seed).astype(dtype)
    found, _ = graph_sums(TASKS["probabilities"], z, items, [1.0] * 3)
    for maps, table in zip(z, found["peaks"], strict=True):
        points, confidence = points_of(table)
        expected, tops = peaks(maps.astype(np.float32), lambda scores: scores)
        np.testing.assert_allclose(points, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(confidence, tops)


def test_a_peak_in_the_bars_of_a_letterbox_does_not_count_by_hand():
    """A frame of 8x4 in a letterbox of 8x8: rows 2 to 5. The largest score is in row 0, and the next in row 3."""
    prep = Preprocessing(Size(8, 8), Resize.LETTERBOX)
    z = np.zeros((1, len(LABELS), 8, 8), np.float32)
    z[:, :, 0, 6], z[:, :, 3, 4], z[:, :, 3, 5] = 9, 0.6, 0.2
    found, _ = graph_sums(TASKS["probabilities"], z, [(0, prep.place(View(), Size(80, 40)))], [1.0])
    np.testing.assert_allclose(found["peaks"][0], [[4, 3, 0.25, 0, 0.6]] * len(LABELS), atol=1e-6)


def test_left_and_right_change_places_in_a_mirrored_view_by_hand():
    prep = Preprocessing(Size(4, 4), Resize.EXACT)
    z = np.zeros((1, len(LABELS), 4, 4), np.float32)
    left, right = (LABELS.index(label) for label in PAIRS[0])
    z[0, left, 1, 0], z[0, right, 2, 1] = 1, 0.5
    items = [(0, prep.place(read_view("hflip"), IMAGES[0]))]
    _, sums = graph_sums(TASKS["probabilities"], z, items, [2.0])
    assert sums[0].total[right].tolist() == [[0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert sums[0].total[left].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert (sums[0].weights == 2).all()


@pytest.mark.parametrize("name", ["probabilities", "logits", "raw"])
def test_maps_that_are_not_sound_are_left_out_and_spoil_no_other(name):
    prep = PREPARATIONS["exact"]
    items = placed(prep, [read_view("identity"), read_view("hflip")], prep.size)
    z = blobs(len(items), 44, 56)
    z[0, 1, 3, 3], z[1, 0, 5, 5], z[2, 2, :, :], z[3, 0, 2, 2] = np.nan, np.inf, -np.inf, -np.inf
    found, _ = graph_sums(TASKS[name], z, items, [1.0] * len(items))
    assert found["sound"].tolist() == [False, False, False, True, True, True]
    assert np.isfinite(found["total"]).all()
    own = ImageFrame(IMAGES[0], items[0][1])
    for row, sound in enumerate(found["sound"]):
        pose = TASKS[name].decode({"points": z}, row, items[row][1], own)
        assert TASKS[name].is_sound(pose) == sound


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("exact_only", [True, False])
def test_the_graph_is_valid_and_has_no_node_that_a_gpu_leaves_to_the_cpu(name, exact_only):
    made = onnx.load_from_string(heat_tail(TASKS[name].sums("mean_heatmaps", SPEC), len(LABELS), "float16", exact_only))
    onnx.checker.check_model(made, full_check=True)
    assert not {"Shape", "Size", "Pad", "Loop", "Range"} & {node.op_type for node in made.graph.node}


def test_where_each_view_is_needed_there_are_no_sums():
    assert TASKS["logits"].sums("mean_coordinates", SPEC) is None
    assert TASKS["logits"].sums("mean_heatmaps", ResponseSpec(frozenset(["views"]))) is None
    assert task().sums("mean_coordinates", SPEC) is None
    assert task("simcc").sums("mean_coordinates", SPEC) is None


def test_maps_whose_points_come_last_have_no_sums():
    assert task("heatmaps", layout="NHWC", shape=(None, None, None, 4)).sums("mean_heatmaps", SPEC) is None
