import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.errors import InvalidInput
from tta_server.views import color, geometry
from tta_server.views.geometry import SYMMETRIES
from tta_server.views.spec import read_view
from tta_server.views.view import MAX_VIEWS, Border, Policy, Symmetries, View

PLAIN = View()
FLIP = View("flip", geometry=geometry.symmetry("hflip"))

CHANGES = {
    "geometry": View(geometry=geometry.rotation(10)),
    "swaps": View(geometry=geometry.symmetry("rot90")),
    "color": View(color=color.brightness(1.1)),
    "border": View(geometry=geometry.rotation(10), border=Border.CONSTANT),
    "scale": View(scale=1.25),
    "anchor": View(anchor=(0.0, 0.0)),
    "weight": View(weight=0.5),
    "class weights": View(weight=(0.5, 1.0)),
}


def digest(*views):
    return Policy("p", (PLAIN, *views)).digest


# ---- digest ----


def test_digest_ignores_names_of_policy_and_views():
    one = Policy("one", (PLAIN, FLIP))
    other = Policy("other", (replace(PLAIN, name="a"), replace(FLIP, name="b")), version="7")
    assert one.digest == other.digest


@pytest.mark.parametrize("what", CHANGES)
def test_digest_changes_with_any_part_of_a_view(what):
    others = {digest(view) for key, view in CHANGES.items() if key != what}
    assert digest(CHANGES[what]) not in others | {digest(), digest(PLAIN)}


def test_digest_depends_on_the_order():
    assert digest(FLIP, CHANGES["color"]) != digest(CHANGES["color"], FLIP)


def test_digest_is_that_of_the_canonical_json():
    canonical = (
        '[{"anchor":null,"border":"reflect101",'
        '"color":{"rows":[[1.0,0.0,0.0,0.0],[0.0,1.0,0.0,0.0],[0.0,0.0,1.0,0.0]]},'
        '"geometry":{"linear":[1.0,0.0,0.0,1.0],"offset":[0.0,0.0],"relative":[0.0,0.0,0.0,0.0],"swaps":false},'
        '"scale":1.0,"weight":1.0}]'
    )
    assert digest() == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_equal_views_have_equal_digests():
    half_turn = View(geometry=geometry.symmetry("rot90").then(geometry.symmetry("rot90")))
    assert digest(half_turn) == digest(View(geometry=geometry.symmetry("rot180")))
    assert digest(View(geometry=geometry.rotation(180))) == digest(View(geometry=geometry.symmetry("rot180")))


# ---- policies ----


def test_a_policy_without_views_is_refused():
    with pytest.raises(InvalidInput, match="the policy is empty"):
        Policy("p", ())


def test_a_policy_starts_with_the_plain_view():
    with pytest.raises(InvalidInput, match="the first view of the policy is 'flip'; it must be the plain view"):
        Policy("p", (FLIP, PLAIN))


def test_the_number_of_views_is_limited():
    assert Policy("p", (PLAIN,) * MAX_VIEWS)
    with pytest.raises(InvalidInput, match="the policy has 257 views; the limit is 256"):
        Policy("p", (PLAIN,) * (MAX_VIEWS + 1))


@pytest.mark.parametrize("what", ["geometry", "swaps", "color", "scale", "anchor"])
def test_a_view_that_changes_pixels_is_not_plain(what):
    assert not CHANGES[what].is_plain


def test_name_border_and_weight_leave_a_view_plain():
    assert View("x", border=Border.CONSTANT, weight=0.5).is_plain


# ---- composition ----


@given(st.sampled_from(list(CHANGES)), st.sampled_from(list(CHANGES)))
def test_views_compose_in_every_part(first, second):
    a, b = CHANGES[first], CHANGES[second]
    both = a.then(b)
    assert both.geometry == a.geometry.then(b.geometry)
    assert both.color == a.color.then(b.color)
    assert both.scale == a.scale * b.scale
    assert (both.name, both.border, both.weight) == (a.name, a.border, a.weight)


# ---- symmetries of a model ----


@pytest.mark.parametrize(
    ("names", "kept", "refused"),
    [
        ((), ["identity", "grayscale"], ["hflip", "vflip", {"rot90": 1}, {"rot90": 2}, "transpose", "antitranspose"]),
        (("hflip",), ["identity", "hflip"], ["vflip", {"rot90": 1}, {"rot90": 2}, {"rot90": 3}, "transpose"]),
        (("hflip", "vflip"), ["hflip", "vflip", {"rot90": 2}], [{"rot90": 1}, "transpose", "antitranspose"]),
        (("rot90",), [{"rot90": 1}, {"rot90": 2}, {"rot90": 3}], ["hflip", "vflip", "transpose"]),
        (("hflip", "transpose"), ["vflip", {"rot90": 1}, {"rot90": 3}, "antitranspose"], []),
    ],
)
def test_views_beyond_the_symmetries_are_refused(names, kept, refused):
    symmetries = Symmetries(names)
    for spec in kept:
        symmetries.check(read_view(spec))
    for spec in refused:
        with pytest.raises(InvalidInput, match="does not keep this model's labels"):
            symmetries.check(read_view(spec))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "tilted", "steps": [{"rotate": 31}]}, r"view 'tilted' has a rotation in degrees of 31, .* 30$"),
        ({"name": "near", "steps": [{"zoom": 2.5}]}, r"view 'near' has a zoom of 2.5, .* 2$"),
        ({"name": "near", "steps": [{"crop": 0.4}]}, r"view 'near' has a zoom of 2.5, .* 2$"),
        ({"name": "far", "steps": [{"shift": [30, 30]}]}, r"view 'far' has a shift in pixels of 42.4264, .* 32$"),
        ({"name": "over", "steps": [{"rotate": 90}]}, r"view 'over' contains rot90, .*\(its symmetries: hflip\)$"),
        ({"name": "over", "steps": [{"rotate": 180}]}, r"view 'over' contains rot180, "),
        ({"name": "mirror", "steps": ["vflip"]}, r"view 'mirror' contains vflip, "),
        ({"name": "mirror", "steps": ["hflip", {"rotate": 179}]}, r"view 'mirror' contains vflip, "),
    ],
)
def test_a_refusal_names_the_view_what_was_found_and_the_limit(spec, message):
    with pytest.raises(InvalidInput, match=message):
        Symmetries(("hflip",)).check(read_view(spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"rotate": 30},
        {"rotate": -30},
        {"rotate": 350},
        {"zoom": 2},
        {"crop": 0.5},
        {"shift": [0, 32]},
        ["hflip", {"rotate": -12}],
        [{"rotate": 12}, "hflip"],
        ["vflip", {"rot90": 2}],
        {"hue": 90},
        {"scale": 1.25},
    ],
)
def test_views_within_the_limits_pass(spec):
    Symmetries(("hflip",)).check(read_view(spec))


@given(st.sets(st.sampled_from(list(SYMMETRIES))), st.sampled_from(list(SYMMETRIES)), st.floats(-29, 29))
def test_a_small_rotation_does_not_change_whether_labels_are_kept(names, name, degrees):
    symmetries = Symmetries(tuple(names))
    straight = View(geometry=geometry.symmetry(name))
    tilted = View(geometry=geometry.symmetry(name).then(geometry.rotation(degrees)))
    assert is_kept(symmetries, straight) == is_kept(symmetries, tilted)


def is_kept(symmetries, view):
    try:
        symmetries.check(view)
    except InvalidInput:
        return False
    return True
