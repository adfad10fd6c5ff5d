"""Sums that a graph makes of vectors merge as the vectors do one by one."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.sums import SUMMED, TASKS, answer_of, graph_sums, one_by_one, weight_of
from tta_server.compiled.tails import tail
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.views.geometry import Size
from tta_server.views.view import View

FRAME = ImageFrame(Size(8, 8), Preprocessing(Size(8, 8)).place(View(), Size(8, 8)))
NAN, INF = np.nan, np.inf

summed = pytest.mark.parametrize(("name", "merge"), SUMMED)


@st.composite
def batches(draw, by_class, lowest=-20.0):
    """Outputs of some rows, a few of them unsound; weights; and each row's image."""
    rows = draw(st.integers(1, 12))
    number = st.floats(lowest, 20, width=16)
    z = draw(arrays(np.float32, (rows, 3), elements=number))
    for row, value in draw(
        st.dictionaries(st.integers(0, rows - 1), st.sampled_from([NAN, INF, -INF]), max_size=3)
    ).items():
        z[row, draw(st.integers(0, 2)) if value != -INF else 0] = value
    columns = 3 if by_class else 1
    weights = draw(arrays(np.float64, (rows, columns), elements=st.floats(0.25, 4, width=16)))
    images = draw(st.integers(1, 4))
    return z, weights, np.array(draw(st.lists(st.integers(0, images - 1), min_size=rows, max_size=rows)))


def check(name, merge, batch):
    task, (z, weights, owner) = TASKS[name], batch
    found, sound = graph_sums(task, merge, z, weights, owner)
    for image, sums in enumerate(found):
        rows = owner == image
        expected, is_sound = one_by_one(task, merge, z[rows], weights[rows], FRAME)
        np.testing.assert_array_equal(sound[rows], is_sound)
        if is_sound.any():
            merged = task.accumulator(merge, ResponseSpec(), FRAME)
            merged.add_sums(sums)
            answers = (answer_of(task, each, FRAME) for each in (merged, expected))
            np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)
            assert merged.margin() == pytest.approx(expected.margin(), abs=1e-5)


@summed
@given(data=st.data())
def test_sums_by_image_merge_as_rows_do(name, merge, data):
    check(name, merge, data.draw(batches(by_class=False)))


@pytest.mark.parametrize(
    ("name", "merge"), [(name, merge) for name, merge in SUMMED if TASKS[name].sums(merge, ResponseSpec()).by_class]
)
@given(data=st.data())
def test_weights_by_class(name, merge, data):
    check(name, merge, data.draw(batches(by_class=True)))


@summed
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_outputs_of_other_types(name, merge, dtype):
    z = np.random.default_rng(0).normal(0, 2, (6, 3)).astype(dtype)
    check(name, merge, (z, np.full((6, 1), 0.5), np.array([0, 1, 1, 0, 2, 1])))


@summed
def test_views_may_come_one_by_one_and_as_sums(name, merge):
    task = TASKS[name]
    z, weights = np.random.default_rng(1).normal(0, 2, (6, 3)).astype(np.float32), np.linspace(0.5, 2, 6)[:, None]
    (first, last), _ = graph_sums(task, merge, z[[0, 1, 4, 5]], weights[[0, 1, 4, 5]], np.array([0, 0, 1, 1]))
    mixed = task.accumulator(merge, ResponseSpec(), FRAME)
    mixed.add_sums(first)
    for row in (2, 3):
        mixed.add(task.decode({"z": z}, row, FRAME.plain, FRAME), weight_of(weights[row]))
    mixed.add_sums(last)
    expected, _ = one_by_one(task, merge, z, weights, FRAME)
    np.testing.assert_allclose(mixed.result(), expected.result(), rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Two views of one image vote for b and c, the second with half the weight; another image has one for a."""
    z = np.array([[0, 2, 1], [5, 0, 0], [0, 1, 4]], np.float32)
    sums, sound = graph_sums(TASKS["classification"], "vote", z, np.array([[1], [1], [0.5]]), np.array([0, 1, 0]))
    assert sound.all()
    assert [each.total.tolist() for each in sums] == [[0, 1, 0.5], [1, 0, 0]]
    assert [float(each.weights) for each in sums] == [1.5, 1]


def test_ties_go_to_the_lower_class():
    sums, _ = graph_sums(TASKS["classification"], "vote", np.zeros((1, 3), np.float32), np.ones((1, 1)), np.array([0]))
    assert sums[0].total.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("name", "bad", "is_sound"),
    [
        ("classification", [-INF, 1, 2], True),
        ("classification", [-INF, -INF, -INF], False),
        ("multilabel", [-INF, -INF, -INF], True),
        ("multilabel", [0, INF, 0], False),
        ("values", [0, -INF, 0], False),
        ("log", [0, 800, 0], False),  # its exponential is infinite
        ("values", [0, 800, 0], True),
        ("embedding", [NAN, 0, 0], False),
        ("embedding", [0, 0, 0], True),
    ],
)
def test_a_row_that_is_not_sound_spoils_no_other(name, bad, is_sound):
    task = TASKS[name]
    z = np.array([bad, [1, 2, 3], [3, 1, 1]], np.float32)
    for merge in (merge for each, merge in SUMMED if each == name):
        found, sound = graph_sums(task, merge, z, np.ones((3, 1)), np.array([0, 0, 1]))
        assert sound.tolist() == [is_sound, True, True]
        assert np.isfinite(found[0].total).all()
        check(name, merge, (z, np.ones((3, 1)), np.array([0, 0, 1])))


@pytest.mark.parametrize(
    ("name", "merge", "include"),
    [
        ("classification", "max", ()),  # no sum
        ("classification", "vote", ("views",)),
        ("multilabel", "mean_probabilities", ("agreement",)),
        ("values", "median", ()),
        ("values", "mean", ("uncertainty",)),
        ("embedding", "mean", ("views",)),
    ],
)
def test_where_views_are_needed_there_are_no_sums(name, merge, include):
    assert TASKS[name].sums(merge, ResponseSpec(frozenset(include))) is None


@summed
def test_the_graph_is_valid(name, merge):
    content = tail(TASKS[name].sums(merge, ResponseSpec()), 3, "float32")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
