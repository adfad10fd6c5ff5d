import pytest

from tta_server.errors import InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import SYMMETRIES, Size
from tta_server.views.presets import PRESETS, preset, read_policy
from tta_server.views.view import View

CROPS = [True, False]

SHAPES = {
    "plain": 1, "hflip": 2, "flips": 4, "d4": 8, "shifts": 6, "scales": 3, "flip_scales": 4, "light": 5,
}  # fmt: skip


# ---- laws ----


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_starts_plain_and_repeats_neither_a_view_nor_a_name(name, crops):
    policy = preset(name, crops)
    assert policy.name == name
    assert policy.views[0].is_plain
    assert len({view.name for view in policy.views}) == len(policy.views)
    assert len({(v.geometry, v.color, v.scale, v.anchor) for v in policy.views}) == len(policy.views)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_its_own_stable_digest(name):
    assert preset(name, True).digest == preset(name, True).digest
    assert preset(name, True).digest not in {preset(other, True).digest for other in PRESETS if other != name}


@pytest.mark.parametrize("crops", CROPS)
def test_an_inline_list_has_the_digest_of_the_preset_with_the_same_views(crops):
    spec = PRESETS["ten_crop"][1](crops)
    assert read_policy(spec, crops).name == "inline"
    assert read_policy(spec, crops).digest == preset("ten_crop", crops).digest


# ---- examples ----


@pytest.mark.parametrize(("name", "views"), list(SHAPES.items()))
def test_number_of_views_of_a_preset(name, views):
    assert len(preset(name, True).views) == len(preset(name, False).views) == views


def test_d4_is_the_whole_group():
    assert {view.geometry.nearest_symmetry()[0] for view in preset("d4", True).views} == set(SYMMETRIES.values())


@pytest.mark.parametrize(("crops", "five", "ten"), [(True, 5, 10), (False, 6, 12)])
def test_crops_keep_the_plain_view_besides_the_centre_window_if_preprocessing_does_not_crop(crops, five, ten):
    assert len(preset("five_crop", crops).views) == five
    assert len(preset("ten_crop", crops).views) == ten


@pytest.mark.parametrize(
    ("prep", "crops"),
    [
        (Preprocessing(Size(224, 224), Resize.SHORT, 256), True),
        (Preprocessing(Size(224, 224), Resize.EXACT), False),
    ],
)
def test_five_crop_cuts_the_four_corners_of_a_256_canvas(prep, crops):
    corners = preset("five_crop", crops).views[-4:]
    placed = [prep.place(view, Size(300, 300)) for view in corners]
    assert [p.canvas for p in placed] == [Size(256, 256)] * 4
    assert [(p.to_canvas.tx, p.to_canvas.ty) for p in placed] == [(0, 0), (32, 0), (0, 32), (32, 32)]
    assert all(p.exact for p in placed)


def test_ten_crop_ends_with_the_mirrored_windows():
    views = preset("ten_crop", True).views
    for straight, mirrored in zip(views[:5], views[5:], strict=True):
        assert mirrored.anchor == straight.anchor
        assert mirrored.geometry.mirrors
        assert mirrored.name == f"{straight.name}+hflip"


def test_an_unknown_preset_is_refused_naming_the_known_ones():
    with pytest.raises(
        InvalidInput, match=r"^unknown policy 'd5'; presets: plain, hflip, .*; or give a list of views$"
    ):
        read_policy("d5", True)


@pytest.mark.parametrize("spec", [None, 3, {"hflip": True}, [], ["hflip"]])
def test_an_invalid_policy_is_refused(spec):
    with pytest.raises(InvalidInput, match="policy"):
        read_policy(spec, True)


def test_a_list_of_one_plain_view_is_a_policy():
    (only,) = read_policy(["identity"], False).views
    assert only == View()
