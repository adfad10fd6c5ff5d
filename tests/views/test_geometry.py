import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.views.geometry import (
    IDENTITY,
    SYMMETRIES,
    Affine,
    Geometry,
    Size,
    apply_each,
    crop,
    generated_group,
    rotation,
    shift,
    symmetry,
    zoom,
)

POINTS = np.array([(0.0, 0.0), (10.5, 3.25), (-7.0, 41.0), (100.0, 64.0)])

sizes = st.builds(Size, st.integers(1, 400), st.integers(1, 400))
fractions = st.floats(0.1, 1)
primitives = st.one_of(
    st.sampled_from(list(SYMMETRIES)).map(symmetry),
    st.floats(-360, 360).map(rotation),
    st.floats(1, 4).map(zoom),
    st.builds(shift, st.floats(-64, 64), st.floats(-64, 64)),
    st.builds(crop, fractions, fractions, fractions),
)
geometries = st.lists(primitives, max_size=3).map(lambda steps: chained(*steps))


def chained(*steps):
    whole = IDENTITY
    for step in steps:
        whole = whole.then(step)
    return whole


def assert_same_map(one, other, tolerance=1e-6):
    np.testing.assert_allclose(one.apply(POINTS), other.apply(POINTS), atol=tolerance, rtol=1e-9)


# ---- laws ----


@given(geometries, geometries, sizes)
def test_composing_geometries_is_composing_their_maps(first, second, size):
    assert_same_map(first.then(second).at(size), first.at(size).then(second.at(first.frame(size))), 1e-4)


@given(geometries, geometries, sizes)
def test_composing_geometries_composes_their_frames(first, second, size):
    assert first.then(second).frame(size) == second.frame(first.frame(size))


@given(primitives, primitives, primitives)
def test_composition_is_associative(a, b, c):
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert left.swaps == right.swaps
    for name in ("linear", "relative", "offset"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-6, atol=1e-6)


@given(geometries)
def test_identity_changes_nothing_on_either_side(g):
    assert IDENTITY.then(g) == g == g.then(IDENTITY)


@given(geometries, sizes)
def test_inverse_undoes_on_points(g, size):
    m = g.at(size)
    assert_same_map(m.then(m.inverse()), Affine())
    assert_same_map(m.inverse().then(m), Affine(), 1e-4)


@given(geometries, sizes, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_a_point_alone_lands_where_it_does_among_others(g, size, x, y):
    m = g.at(size)
    assert m.apply_to(x, y) == tuple(m.apply(np.array([(0, 0), (x, y)]))[1])


@given(st.lists(geometries, min_size=1, max_size=4), sizes)
def test_each_of_several_maps_moves_points_as_it_does_alone(several, size):
    maps = [g.at(size) for g in several]
    np.testing.assert_array_equal(apply_each(maps, POINTS), [m.apply(POINTS) for m in maps])


@given(primitives, primitives)
def test_determinant_of_a_composition_is_the_product(a, b):
    assert a.then(b).determinant == pytest.approx(a.determinant * b.determinant, rel=1e-6)
    assert a.then(b).mirrors == (a.mirrors != b.mirrors)


@given(st.floats(-360, 360), sizes)
def test_rotation_keeps_distances_on_any_window(degrees, size):
    moved = rotation(degrees).at(size).apply(POINTS)
    for i, j in product(range(len(POINTS)), repeat=2):
        assert math.dist(moved[i], moved[j]) == pytest.approx(math.dist(POINTS[i], POINTS[j]), abs=1e-6)


@given(st.floats(-360, 360), st.floats(1, 4), sizes)
def test_rotation_and_zoom_keep_the_centre(degrees, factor, size):
    centre = np.array([(size.width / 2, size.height / 2)])
    moved = rotation(degrees).then(zoom(factor)).at(size).apply(centre)
    np.testing.assert_allclose(moved, centre, atol=1e-6)


@given(st.sampled_from(list(SYMMETRIES)), sizes)
def test_symmetries_map_the_window_s_corners_to_the_frame_s(name, size):
    g = symmetry(name)
    frame = g.frame(size)
    corners = {(x, y) for x, y in product((0.0, size.width), (0.0, size.height))}
    moved = g.at(size).apply(np.array(sorted(corners)))
    assert {tuple(p) for p in moved} == {(x, y) for x, y in product((0.0, frame.width), (0.0, frame.height))}


@given(fractions, st.floats(0, 1), st.floats(0, 1), sizes)
def test_a_crop_fills_the_frame_with_its_part_of_the_window(fraction, ax, ay, size):
    w, h = size
    left, top = ax * (1 - fraction) * w, ay * (1 - fraction) * h
    part = np.array([(left, top), (left + fraction * w, top + fraction * h)])
    centre = (left / w + fraction / 2, top / h + fraction / 2)
    np.testing.assert_allclose(crop(fraction, *centre).at(size).apply(part), [(0, 0), (w, h)], atol=1e-6)


@pytest.mark.parametrize("degrees", [-44.0, -10.0, 0.0, 3.0, 44.0])
@pytest.mark.parametrize("name", SYMMETRIES)
@pytest.mark.parametrize("turned_first", [False, True])
def test_nearest_symmetry_of_a_symmetry_and_a_small_rotation_is_that_symmetry(name, degrees, turned_first):
    parts = [rotation(degrees), zoom(1.3), symmetry(name)]
    quarter, rest = chained(*(parts if turned_first else reversed(parts))).nearest_symmetry()
    assert quarter == SYMMETRIES[name]
    assert rest == pytest.approx(abs(degrees), abs=1e-6)


@pytest.mark.parametrize(("first", "second"), list(product(SYMMETRIES, repeat=2)))
def test_composed_symmetries_are_a_symmetry(first, second):
    quarter = SYMMETRIES[first].then(SYMMETRIES[second])
    composed = symmetry(first).then(symmetry(second))
    assert quarter in SYMMETRIES.values()
    assert composed.linear == tuple(quarter)
    assert composed.nearest_symmetry() == (quarter, pytest.approx(0, abs=1e-9))


@given(st.lists(st.sampled_from(list(SYMMETRIES))))
def test_the_generated_group_is_the_smallest_with_its_generators(names):
    group = generated_group(names)
    assert SYMMETRIES["identity"] in group
    assert {SYMMETRIES[n] for n in names} <= group
    assert {a.then(b) for a, b in product(group, repeat=2)} == group
    assert all(group <= generated_group([*names, extra]) for extra in SYMMETRIES)


@given(st.floats(1, 4), st.floats(-180, 180))
def test_magnification_is_the_zoom(factor, degrees):
    assert rotation(degrees).then(zoom(factor)).magnification == pytest.approx(factor)


# ---- examples ----


@pytest.mark.parametrize(
    ("names", "members"),
    [
        ([], {"identity"}),
        (["hflip"], {"identity", "hflip"}),
        (["rot180"], {"identity", "rot180"}),
        (["hflip", "vflip"], {"identity", "hflip", "vflip", "rot180"}),
        (["rot90"], {"identity", "rot90", "rot180", "rot270"}),
        (["transpose", "antitranspose"], {"identity", "transpose", "antitranspose", "rot180"}),
        (["hflip", "rot90"], set(SYMMETRIES)),
        (["transpose", "vflip"], set(SYMMETRIES)),
    ],
)
def test_generated_groups(names, members):
    assert generated_group(names) == {SYMMETRIES[m] for m in members}


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("identity", (1, 2)),
        ("hflip", (9, 2)),
        ("vflip", (1, 4)),
        ("rot180", (9, 4)),
        ("rot90", (2, 9)),  # the right edge goes to the top
        ("rot270", (4, 1)),
        ("transpose", (2, 1)),
        ("antitranspose", (4, 9)),
    ],
)
def test_a_symmetry_of_the_point_1_2_of_a_10_by_6_window(name, there):
    np.testing.assert_array_equal(symmetry(name).at(Size(10, 6)).apply(np.array([(1, 2)])), [there])


def test_a_quarter_turn_by_rotation_is_exact_and_keeps_the_frame():
    turned = rotation(90)
    assert turned.linear == tuple(SYMMETRIES["rot90"])
    assert not turned.swaps
    np.testing.assert_array_equal(turned.at(Size(10, 6)).apply(np.array([(5, 3), (6, 3)])), [(5, 3), (5, 2)])


def test_steps_apply_in_the_order_in_which_they_are_listed():
    point = np.array([(1.0, 2.0)])
    then_flip = shift(3, 0).then(symmetry("hflip")).at(Size(10, 6)).apply(point)
    then_shift = symmetry("hflip").then(shift(3, 0)).at(Size(10, 6)).apply(point)
    np.testing.assert_array_equal(then_flip, [(6, 2)])
    np.testing.assert_array_equal(then_shift, [(12, 2)])


def test_zooming_by_two_about_the_centre():
    np.testing.assert_array_equal(zoom(2).at(Size(10, 6)).apply(np.array([(4.0, 3.0), (6.0, 4.0)])), [(3, 3), (7, 5)])


def test_affine_composition_by_hand():
    both = Affine.stretch(2, 3).then(Affine.shift(1, -1))
    np.testing.assert_array_equal(both.apply(np.array([(1.0, 1.0)])), [(3, 2)])
    assert both.determinant == 6
    np.testing.assert_array_equal(both.inverse().apply(np.array([(3.0, 2.0)])), [(1, 1)])


def test_a_size_reads_as_width_by_height():
    assert str(Size(3, 4)) == "3x4"
    assert Size(3, 4).area == 12
    assert Size(3, 4).swapped == Size(4, 3)


def test_negative_zero_does_not_make_geometries_differ():
    assert repr(Geometry(offset=(-0.0, 0.0))) == repr(Geometry())
    assert rotation(360) == IDENTITY
