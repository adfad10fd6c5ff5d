import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.errors import InvalidInput
from tta_server.views import color, geometry
from tta_server.views.spec import ANCHORS, BARE, PRIMITIVES, RANDOM_RANGES, VIEW_KEYS, read_view, read_views
from tta_server.views.view import MAX_VIEWS, Border, View

EXAMPLES = {
    "identity": (True, View()),
    "hflip": (True, View(geometry=geometry.symmetry("hflip"))),
    "vflip": (True, View(geometry=geometry.symmetry("vflip"))),
    "rot90": (3, View(geometry=geometry.symmetry("rot270"))),
    "transpose": (True, View(geometry=geometry.symmetry("transpose"))),
    "antitranspose": (True, View(geometry=geometry.symmetry("antitranspose"))),
    "rotate": (-12.5, View(geometry=geometry.rotation(-12.5))),
    "zoom": (1.2, View(geometry=geometry.zoom(1.2))),
    "shift": ([3, -4.5], View(geometry=geometry.shift(3, -4.5))),
    "crop": (0.8, View(geometry=geometry.crop(0.8, 0.5, 0.5))),
    "scale": (1.25, View(scale=1.25)),
    "window": ("top_right", View(anchor=(1.0, 0.0))),
    "brightness": (1.1, View(color=color.brightness(1.1))),
    "contrast": (0.9, View(color=color.contrast(0.9))),
    "saturation": (0, View(color=color.saturation(0))),
    "hue": (30, View(color=color.hue(30))),
    "grayscale": (True, View(color=color.grayscale())),
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(list(PRIMITIVES)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*PRIMITIVES, *VIEW_KEYS, "random", "n", "seed", "ranges", "fraction", "anchor", "center"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def effect(view):
    """Return all of a view but its name."""
    return view.geometry, view.color, view.border, view.scale, view.anchor, view.weight


# ---- laws ----


def test_every_primitive_has_an_example_here():
    assert EXAMPLES.keys() == PRIMITIVES.keys()


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_reads_as_its_view(name):
    value, expected = EXAMPLES[name]
    assert effect(read_view({name: value})) == effect(expected)
    assert effect(read_view([{name: value}])) == effect(expected)
    assert effect(read_view({"steps": [{name: value}]})) == effect(expected)


@pytest.mark.parametrize("word", BARE)
def test_a_bare_word_is_its_primitive(word):
    assert effect(read_view(word)) == effect(read_view({word: 1 if word == "rot90" else True}))


@given(st.lists(st.sampled_from(list(EXAMPLES)), max_size=4))
def test_a_list_applies_its_steps_in_order(names):
    whole = View()
    for name in names:
        whole = whole.then(EXAMPLES[name][1])
    assert effect(read_view([{name: EXAMPLES[name][0]} for name in names])) == effect(whole)


@given(anything)
def test_any_json_is_a_view_or_refused_in_one_sentence(spec):
    assert_reads_or_refuses(read_view, spec)


@given(anything)
def test_any_json_is_a_list_of_views_or_refused_in_one_sentence(spec):
    assert_reads_or_refuses(read_views, spec)
    assert_reads_or_refuses(read_views, [spec])
    assert_reads_or_refuses(read_views, [{"random": spec}])


def assert_reads_or_refuses(read, spec):
    try:
        read(json.loads(json.dumps(spec)))
    except InvalidInput as mistake:
        sentence = str(mistake)
        assert sentence.strip() == sentence != ""
        assert "\n" not in sentence
        assert len(sentence) < 400


@given(
    st.integers(1, 12),
    st.integers(),
    st.dictionaries(st.sampled_from(list(RANDOM_RANGES)), st.just(None), min_size=1),
)
def test_random_expands_to_the_same_views_every_time_and_within_its_ranges(n, seed, keys):
    spec = [{"random": {"n": n, "seed": seed, "ranges": {key: list(RANDOM_RANGES[key]) for key in keys}}}]
    first = read_views(spec)
    assert first == read_views(spec)
    assert len(first) == n
    assert len({view.name for view in first}) == n


def test_random_draws_are_stable_across_versions():
    spec = [{"random": {"n": 2, "seed": 7, "ranges": {"rotate": [-10, 10], "brightness": [0.8, 1.2]}}}]
    rotate = [-3.5233, 3.0187]
    brightness = [0.8603, 0.829]
    expected = [read_view([{"rotate": r}, {"brightness": b}]) for r, b in zip(rotate, brightness, strict=True)]
    assert [effect(view) for view in read_views(spec)] == [effect(view) for view in expected]


def test_random_with_another_seed_draws_other_views():
    one, other = ([{"random": {"n": 3, "seed": s, "ranges": {"rotate": [-10, 10]}}}] for s in (1, 2))
    assert {v.geometry for v in read_views(one)}.isdisjoint(v.geometry for v in read_views(other))


def test_random_within_narrow_ranges_stays_there():
    for view in read_views([{"random": {"n": 50, "seed": 3, "ranges": {"shift": [-2, 5]}}}]):
        assert all(-2 <= v <= 5 for v in view.geometry.offset)


def test_random_keeps_its_place_among_other_views():
    views = read_views(["identity", {"random": {"n": 2, "seed": 1, "ranges": {"zoom": [1, 1.2]}}}, "hflip"])
    assert [view.name for view in views] == ["plain", "random 1.1", "random 1.2", "hflip"]


# ---- options ----


def test_name_border_and_weight():
    view = read_view({"name": "tilted", "steps": [{"rotate": 10}], "border": "replicate", "weight": 0.5})
    assert (view.name, view.border, view.weight) == ("tilted", Border.REPLICATE, 0.5)
    assert view == read_view({"name": "tilted", "rotate": 10, "border": "replicate", "weight": 0.5})


def test_weights_for_each_class():
    assert read_view({"hflip": True, "weight": [0, 1, 0.5]}).weight == (0.0, 1.0, 0.5)


@pytest.mark.parametrize("border", list(Border))
def test_every_border_reads(border):
    assert read_view({"rotate": 3, "border": border.value}).border is border


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("identity", "plain"),
        ([], "plain"),
        ("hflip", "hflip"),
        ({"rotate": 10}, "rotate 10"),
        ({"rot90": 2}, "rot90 2"),
        (["hflip", {"shift": [6, 0]}], "hflip+shift [6,0]"),
        ({"hflip": True, "rotate": 5}, "hflip+rotate 5"),
    ],
)
def test_a_view_without_a_name_is_named_by_its_steps(spec, name):
    assert read_view(spec).name == name


@given(st.lists(st.sampled_from(list(EXAMPLES)), min_size=9, max_size=32))
def test_names_stay_short(names):
    assert len(read_view([{name: EXAMPLES[name][0]} for name in names]).name) <= 64


@pytest.mark.parametrize("name", ANCHORS)
def test_anchored_crops_touch_their_corner(name):
    ax, ay = ANCHORS[name]
    window = geometry.Size(100, 60)
    to_window = read_view({"crop": {"fraction": 0.5, "anchor": name}}).geometry.at(window).inverse()
    (left, top), (right, bottom) = to_window.apply([(0, 0), window])
    assert (left, top) == pytest.approx((ax * 50, ay * 30))
    assert (right, bottom) == pytest.approx((ax * 50 + 50, ay * 30 + 30))


def test_a_crop_about_a_centre():
    assert read_view({"crop": {"fraction": 0.5, "center": [0.3, 0.6]}}).geometry == geometry.crop(0.5, 0.3, 0.6)


# ---- mistakes ----

MISTAKES = [
    (5, "a step of a view is a word like 'hflip' or a mapping like {rotate: 10}, not 5"),
    (None, "a step of a view is a word like 'hflip' or a mapping like {rotate: 10}, not null"),
    ([["hflip"]], "a step of a view is a word like 'hflip' or a mapping like {rotate: 10}, not [\"hflip\"]"),
    ("flip", "unknown primitive 'flip' in a view; known: identity, hflip, "),
    ({"flip": True}, "unknown primitive 'flip' in a view; known: identity, hflip, "),
    ("rotate", "rotate needs a value, as in {rotate: ...}"),
    ({"hflip": False}, "hflip takes true, not false"),
    ({"hflip": 1}, "hflip takes true, not 1"),
    ({"grayscale": 0.5}, "grayscale takes true, not 0.5"),
    ({"rot90": 4}, "rot90 takes 1, 2 or 3 quarter turns counter-clockwise, not 4"),
    ({"rot90": True}, "rot90 takes 1, 2 or 3 quarter turns counter-clockwise, not true"),
    ({"rot90": [1]}, "rot90 takes 1, 2 or 3 quarter turns counter-clockwise, not [1]"),
    ({"rotate": "10"}, "rotate takes a number from -360 to 360, not '10'"),
    ({"rotate": 361}, "rotate takes a number from -360 to 360, not 361"),
    ({"rotate": float("nan")}, "rotate takes a number from -360 to 360, not NaN"),
    ({"rotate": True}, "rotate takes a number from -360 to 360, not true"),
    ({"zoom": 0.9}, "zoom takes a number from 1 to 10, not 0.9"),
    ({"zoom": float("inf")}, "zoom takes a number from 1 to 10, not Infinity"),
    ({"shift": 3}, "shift takes two numbers [x, y], not 3"),
    ({"shift": [1, 2, 3]}, "shift takes two numbers [x, y], not [1, 2, 3]"),
    ({"shift": [1, 513]}, "shift takes a number from -512 to 512, not 513"),
    ({"crop": 1.1}, "crop.fraction takes a number from 0.1 to 1, not 1.1"),
    ({"crop": 0}, "crop.fraction takes a number from 0.1 to 1, not 0"),
    ({"crop": {}}, "crop.fraction takes a number from 0.1 to 1, not null"),
    ({"crop": {"fraction": 0.5, "corner": 1}}, "crop takes fraction, anchor or center, not 'corner'"),
    ({"crop": {"fraction": 0.5, "center": [2, 0]}}, "crop.center takes a number from 0 to 1, not 2"),
    ({"crop": {"fraction": 0.5, "anchor": "middle"}}, "crop.anchor takes one of center, top_left, "),
    ({"scale": 0.2}, "scale takes a number from 0.25 to 4, not 0.2"),
    ({"window": "left"}, "window takes one of center, top_left, top_right, bottom_left, bottom_right or [x, y]"),
    ({"window": 0.5}, "window takes two numbers [x, y], not 0.5"),
    ({"brightness": -1}, "brightness takes a number from 0 to 4, not -1"),
    ({"hue": 200}, "hue takes a number from -180 to 180, not 200"),
    ({"hflip": True, "border": "wrap"}, "border takes one of reflect101, reflect, replicate, constant, not 'wrap'"),
    ({"hflip": True, "border": ["reflect"]}, "border takes one of reflect101, "),
    ({"hflip": True, "weight": 0}, "weight takes a number from 1e-06 to 1e+06, not 0"),
    ({"hflip": True, "weight": [1, -1]}, "weight takes a number from 0 to 1e+06, not -1"),
    ({"hflip": True, "weight": [0, 0]}, "the weights of the view are all 0"),
    ({"hflip": True, "weight": []}, "the weights of the view are all 0"),
    ({"hflip": True, "name": ""}, "a view's name must be text of 1 to 64 printable characters, not ''"),
    ({"hflip": True, "name": "a\nb"}, "a view's name must be text of 1 to 64 printable characters, not 'a\\nb'"),
    ({"hflip": True, "name": "x" * 65}, "a view's name must be text of 1 to 64 printable characters, not 'xxx"),
    ({"steps": ["hflip"], "rotate": 3}, "a view with steps takes the keys name, steps, border, weight, not 'rotate'"),
]


@pytest.mark.parametrize(("spec", "sentence"), MISTAKES)
def test_a_mistake_in_a_view_is_one_sentence(spec, sentence):
    with pytest.raises(InvalidInput, match="^" + re.escape(sentence)):
        read_view(spec)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("hflip", "a policy must be a preset's name or a list of views, not 'hflip'"),
        ({"hflip": True}, 'a policy must be a preset\'s name or a list of views, not {"hflip": true}'),
        (["identity", {"zoom": 0}], "view 2: zoom takes a number from 1 to 10, not 0"),
        (["identity"] * (MAX_VIEWS + 1), "the policy has 257 views; the limit is 256"),
        ([{"random": 4}], "view 1: random takes exactly n, seed and ranges"),
        ([{"random": {"n": 4, "seed": 1}}], "view 1: random takes exactly n, seed and ranges"),
        (
            [{"random": {"n": 0, "seed": 1, "ranges": {"zoom": [1, 2]}}}],
            "view 1: random.n takes a number from 1 to 256",
        ),
        ([{"random": {"n": 1.5, "seed": 1, "ranges": {"zoom": [1, 2]}}}], "view 1: random takes whole numbers"),
        ([{"random": {"n": 1, "seed": "a", "ranges": {"zoom": [1, 2]}}}], "view 1: random takes whole numbers"),
        ([{"random": {"n": 1, "seed": 1, "ranges": {}}}], "view 1: random.ranges takes rotate, zoom, "),
        ([{"random": {"n": 1, "seed": 1, "ranges": {"flip": [0, 1]}}}], "view 1: random.ranges takes rotate, zoom, "),
        ([{"random": {"n": 1, "seed": 1, "ranges": {"zoom": [0, 2]}}}], "view 1: zoom takes a number from 1 to 10"),
        ([{"random": {"n": 1, "seed": 1, "ranges": {"zoom": 2}}}], "view 1: zoom takes two numbers [x, y], not 2"),
    ],
)
def test_a_mistake_in_a_list_of_views_is_one_sentence(spec, sentence):
    with pytest.raises(InvalidInput, match="^" + re.escape(sentence)):
        read_views(spec)


@pytest.mark.parametrize("key", ["rotate", "zoom", "crop", "shift", "scale", "hue", "weight", "n"])
def test_a_number_too_large_for_a_float_is_refused_like_any_other(key):
    huge = 10**400
    spec = {"hflip": True, key: [huge, huge] if key == "shift" else huge}
    spec = {"random": {"n": huge, "seed": 1, "ranges": {"zoom": [1, 2]}}} if key == "n" else spec
    with pytest.raises(InvalidInput, match=f"{key}.* takes a number from"):
        read_views([spec])


def test_keys_that_only_yaml_allows_are_refused():
    with pytest.raises(InvalidInput, match="crop takes fraction, anchor or center"):
        read_view({"crop": {1: 0.5, "corner": 2}})
    with pytest.raises(InvalidInput, match="unknown primitive 1 in a view"):
        read_view({1: True})


def test_random_views_count_towards_the_limit():
    burst = {"random": {"n": MAX_VIEWS, "seed": 1, "ranges": {"zoom": [1, 2]}}}
    with pytest.raises(InvalidInput, match="the limit is 256"):
        read_views(["identity", burst])
