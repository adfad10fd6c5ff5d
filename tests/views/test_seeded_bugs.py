"""Bugs of other libraries, seeded on purpose: for each, a law or an example must fail."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tasks.boxes import test_accumulator, test_fusion
from tests.tasks.masks import test_maps
from tests.tasks.scores import test_merging
from tests.views import test_guarantees as test_contract
from tta_server.imaging import preprocessing
from tta_server.imaging.placement import Placement
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks.boxes import fusion
from tta_server.tasks.boxes.frames import Visibility
from tta_server.tasks.masks import maps
from tta_server.tasks.scores import merging
from tta_server.tasks.scores.kinds import softmax
from tta_server.tasks.scores.merging import Merge
from tta_server.views.geometry import Affine, Geometry
from tta_server.views.guarantees import contract


def cell(view, output):
    """Return the test of one guarantee."""
    (found,) = (c for c in contract() if (c.view, c.output) == (view, output))
    return lambda: test_contract.check(found, np.random.default_rng(5), 40)


def placed(mistake):
    """Return a patch that changes placements; `mistake`: placement, geometry, scale -> placement."""
    real = preprocessing._place.__wrapped__

    def place(prep, geometry, scale, anchor, image, tile):
        return mistake(real(prep, geometry, scale, anchor, image, tile), geometry, scale)

    return lambda patch: patch.setattr(preprocessing, "_place", place)


def rotated_the_wrong_way(placement, geometry, scale):
    width, height = placement.frame
    half_turn = Affine(-1, 0, width, 0, -1, height)
    return replace(placement, to_plain=half_turn.then(placement.to_plain)) if geometry.swaps else placement


def one_pixel_less(placement, geometry, scale):
    return replace(placement, to_plain=placement.to_plain.then(Affine.shift(-1, 0))) if geometry.mirrors else placement


def half_a_pixel_off(placement, geometry, scale):
    return placement if scale == 1 else replace(placement, to_plain=placement.to_plain.then(Affine.shift(0.5, 0.5)))


def no_pair_swap(patch):
    patch.setattr(Placement, "mirrors", property(lambda self: False))


def bars_flipped_too(patch):
    real = Preprocessing.write

    def write(self, canvas, view, placement, out):
        if view.geometry.mirrors:
            view = replace(view, geometry=Geometry())
            real(self, canvas, view, replace(placement, to_canvas=self.place(view, self._image).to_canvas), out)
            out[...] = out[..., ::-1]
        else:
            real(self, canvas, view, placement, out)

    place = Preprocessing.place

    def noted(self, view, image, tile=None):
        object.__setattr__(self, "_image", image)
        return place(self, view, image, tile)

    patch.setattr(Preprocessing, "place", noted)
    patch.setattr(Preprocessing, "write", write)


def no_rescaling(patch):
    real = fusion.count_votes

    def count_votes(boxes, groups, corner, visible):
        found = real(boxes, groups, corner, visible).found
        return fusion.Votes(found, found)

    patch.setattr(fusion, "count_votes", count_votes)


def coverage_of_maps_ignored(patch):
    patch.setattr(maps, "view_coverage", lambda placement, grid: None)


def coverage_of_boxes_ignored(patch):
    patch.setattr(Visibility, "shows", lambda self, xyxy: np.ones(len(xyxy), bool))


def softmax_first(patch):
    wrong = Merge(lambda kind, z: kind.probabilities(z), softmax)
    patch.setitem(merging.MERGES, "mean_logits", wrong)


def shearing(patch):
    real = Geometry.at

    def at(self, window):
        w, h = window
        xx, xy, yx, yy = self.linear
        if xx and xy:
            self = replace(self, linear=(xx, xy * w / h, yx * h / w, yy))
        return real(self, window)

    patch.setattr(Geometry, "at", at)


BUGS = {
    "hflip forgets the pair swap: points": (no_pair_swap, cell("hflip", "point")),
    "hflip forgets the pair swap: heat maps": (no_pair_swap, cell("hflip", "heat map")),
    "rot90 undone the wrong way: masks": (placed(rotated_the_wrong_way), cell("rot90", "mask")),
    "rot90 undone the wrong way: boxes": (placed(rotated_the_wrong_way), cell("rot90", "box")),
    "W - 1 - x: points": (placed(one_pixel_less), cell("hflip", "point")),
    "W - 1 - x: boxes": (placed(one_pixel_less), cell("hflip", "box")),
    "W - 1 - x: masks": (placed(one_pixel_less), cell("hflip", "mask")),
    "letterbox flipped with its bars": (bars_flipped_too, cell("hflip", "mask")),
    "scale undone half a pixel off: points": (placed(half_a_pixel_off), cell("scale", "point")),
    "scale undone half a pixel off: masks": (placed(half_a_pixel_off), cell("scale", "mask")),
    "WBF score not rescaled": (
        no_rescaling,
        test_fusion.test_views_that_show_a_box_and_do_not_find_it_lower_its_score,
    ),
    "coverage ignored for crops: masks": (
        coverage_of_maps_ignored,
        lambda: test_maps.test_a_crop_changes_only_what_it_shows("mean_probabilities"),
    ),
    "coverage ignored for crops: boxes": (
        coverage_of_boxes_ignored,
        test_accumulator.test_a_box_left_out_as_cut_does_not_lower_its_own_score,
    ),
    "softmax before mean_logits": (
        softmax_first,
        lambda: test_merging.test_a_single_view_is_its_softmax("mean_logits"),
    ),
    "rotation shears on non-square images": (
        shearing,
        lambda: test_contract.check_round(np.random.default_rng(2), 20),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_found(name, monkeypatch):
    mistake, law = BUGS[name]
    law()
    preprocessing._place.cache_clear()
    mistake(monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)):
        law()


@pytest.fixture(autouse=True)
def clear_placement_cache():
    """Clear the cache of placements after each bug."""
    yield
    cached = getattr(preprocessing._place, "cache_clear", lambda: None)
    cached()
