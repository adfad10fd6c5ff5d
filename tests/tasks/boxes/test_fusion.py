import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tta_server.tasks.boxes.fusion import MERGES, Boxes, merge_boxes, sort_boxes
from tta_server.tasks.boxes.grouping import group, leader_stays, mean_moves

SIDE = 100
FIELDS = ("xyxy", "score", "label", "found_by", "visible_in", "spread")


def boxes(*rows):
    """Rows of x1, y1, x2, y2, score and perhaps a label. Writing to them is an error."""
    table = np.array([(*row, 0)[:6] for row in rows], np.float64).reshape(-1, 6)
    arrays = table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.intp)
    for array in arrays:
        array.flags.writeable = False
    return Boxes(*arrays)


def visible_in(*views):
    """Those views show every box, the others none."""
    return lambda xyxy: np.repeat(np.array(views, np.bool_)[:, None], len(xyxy), axis=1)


def merged(merge, views, weights=None, visible=None, iou=0.5503):
    return merge_boxes(merge, views, weights or [1.0] * len(views), visible or visible_in(*[True] * len(views)), iou)


def same(one, other, fields=FIELDS):
    for field in fields:
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=1e-4, err_msg=field)


def scene(seed, classes=2, crowded=None):
    """Up to six views of up to 24 boxes each, about objects or anywhere; crowded ones are large, often of one view."""
    rng = np.random.default_rng(seed)
    crowded = seed % 2 if crowded is None else crowded
    center, size = rng.uniform(0, SIDE, (12, 2)), rng.uniform(5, 60 if crowded else 25, (12, 2))
    jitter = rng.choice([0.03, 0.1, 0.2])

    def view():
        count = rng.integers(0, 25)
        which = rng.integers(0, 12, count)
        middle = np.clip(center[which] + rng.normal(0, jitter, (count, 2)) * size[which], 1, SIDE - 1)
        half = size[which] * np.exp(rng.normal(0, jitter, (count, 2))) / 2
        xyxy = np.clip(np.hstack((middle - half, middle + half)), 0, SIDE)
        return boxes(*np.column_stack((xyxy, rng.uniform(0.01, 1, count), which % classes)))

    return [view() for _ in range(rng.integers(1, 7))]


merges = pytest.mark.parametrize("merge", MERGES)
scenes = st.builds(scene, st.integers(0, 2**32 - 1), st.integers(1, 3))
thresholds = st.sampled_from([0.1, 0.3, 0.5503, 0.7, 0.9])
some_weights = st.lists(st.floats(0, 8, width=32), min_size=6, max_size=6)
side = st.integers(0, 20)
rows = st.tuples(side, side, side, side, st.floats(0, 1, width=32), st.integers(0, 1))
rough = st.lists(st.lists(rows, max_size=8).map(lambda view: boxes(*view)), max_size=6)
"""Views of boxes with ties, with scores of nothing, and with none or negative area."""


# ---- laws ----


@merges
@given(scenes, thresholds, st.randoms(use_true_random=False))
def test_order_of_views_does_not_matter(merge, views, iou, order):
    weights = [1.0 + 0.37 * k for k in range(len(views))]
    shuffled = list(range(len(views)))
    order.shuffle(shuffled)
    other = merged(merge, [views[k] for k in shuffled], [weights[k] for k in shuffled], iou=iou)
    same(merged(merge, views, weights, iou=iou), other)


@merges
@given(rough, some_weights, thresholds)
def test_any_boxes_merge_into_sound_ones(merge, views, weights, iou):
    found = merged(merge, views, weights[: len(views)], iou=iou)
    count = len(found.score)
    assert [getattr(found, field).shape for field in FIELDS] == [(count, 4), *[(count,)] * 5]
    assert [getattr(found, field).dtype for field in FIELDS] == [np.float32, np.float32, *[np.intp] * 3, np.float32]
    assert ((found.score >= 0) & (found.score <= 1)).all()
    assert (np.diff(found.score) <= 0).all()
    assert ((found.found_by >= 1) & (found.found_by <= found.visible_in) & (found.visible_in <= len(views))).all()
    assert np.isfinite(found.spread).all()
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()


@merges
@given(scenes, thresholds)
def test_classes_never_mix(merge, views, iou):
    found = merged(merge, views, iou=iou)
    for label in range(3):
        alone = [Boxes(v.xyxy[v.label == label], v.score[v.label == label], v.label[v.label == label]) for v in views]
        mine = found.label == label
        expected = merged(merge, alone, iou=iou)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(found, field)[mine], getattr(expected, field), atol=1e-4)


@merges
@given(scenes, thresholds, st.integers(-6, 6))
def test_a_larger_frame_gives_larger_boxes(merge, views, iou, power):
    factor = np.float32(2.0**power)
    found = merged(merge, views, iou=iou)
    scaled = merged(merge, [Boxes(v.xyxy * factor, v.score, v.label) for v in views], iou=iou)
    np.testing.assert_allclose(scaled.xyxy, found.xyxy * factor, rtol=1e-6)
    np.testing.assert_allclose(scaled.spread, found.spread * factor, rtol=1e-5, atol=1e-6)
    same(scaled, found, ("score", "label", "found_by", "visible_in"))


@merges
@given(scenes, some_weights, st.floats(0.125, 8, width=32))
def test_only_the_ratio_of_weights_counts(merge, views, weights, factor):
    weights = weights[: len(views)]
    same(merged(merge, views, weights), merged(merge, views, [w * factor for w in weights]))


@merges
@given(scenes, st.integers(0, 2**32 - 1))
def test_a_view_of_no_weight_is_none(merge, views, seed):
    found = merged(merge, [*views, *scene(seed)[:1]], [1.0] * len(views) + [0.0])
    same(found, merged(merge, views))


@pytest.mark.parametrize("merge", ["wbf", "nms", "nmw"])
@given(st.lists(st.lists(st.floats(0.0625, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_identical_boxes_come_back_exactly(merge, scores):
    places = [(3.3, 1.7, 40.1, 20.9), (50.5, 1.1, 90.7, 33.3), (10.3, 60.1, 20.9, 99.7)]
    found = merged(merge, [boxes(*((*place, s) for place, s in zip(places, view, strict=True))) for view in scores])
    assert {tuple(row) for row in found.xyxy} == {tuple(np.float32(place)) for place in places}
    reduce = np.mean if merge == "wbf" else np.max
    np.testing.assert_allclose(np.sort(found.score), np.sort(reduce(np.array(scores), axis=0)), rtol=1e-6)
    assert (found.found_by == len(scores)).all()
    assert (found.spread == 0).all()


@merges
@given(scenes)
def test_a_view_that_does_not_show_a_box_changes_nothing(merge, views):
    found = merged(merge, [*views, boxes()], visible=visible_in(*[True] * len(views), False))
    same(found, merged(merge, views))


@given(scenes)
def test_an_empty_view_that_shows_the_boxes_raises_no_score(views):
    before, after = merged("wbf", views), merged("wbf", [*views, boxes()])
    assert (np.sort(after.score) <= np.sort(before.score) + 1e-6).all()


@given(st.lists(st.floats(0.0625, 1, width=32), min_size=1, max_size=6))
def test_an_empty_view_that_shows_a_box_lowers_its_score(scores):
    views = [boxes((10, 10, 30, 30, score)) for score in scores]
    before, after = merged("wbf", views), merged("wbf", [*views, boxes()])
    count = len(scores)
    np.testing.assert_allclose(after.score, before.score * count / (count + 1), rtol=1e-6)
    assert (before.visible_in[0], after.visible_in[0]) == (count, count + 1)


def box_by_box(ordered, iou, moves):
    """Leaders (N,), assigned one box after another."""
    leader, members = np.arange(len(ordered.score)), {}
    for j in range(len(leader)):
        best = iou
        for i, group_members in members.items():
            if ordered.label[i] != ordered.label[j]:
                continue
            box = (
                np.average(ordered.corner[:, group_members], 1, ordered.score[group_members])
                if moves
                else ordered.corner[:, i]
            )
            low, high = np.maximum(box[:2], ordered.corner[:2, j]), np.minimum(box[2:], ordered.corner[2:, j])
            shared = np.prod(np.maximum(high - low, 0))
            value = shared / (np.prod(box[2:] - box[:2]) + np.prod(ordered.size[:2, j]) - shared)
            if value > best:
                best, leader[j] = value, i
        members.setdefault(leader[j], []).append(j)
    return leader


@pytest.mark.parametrize(("group_box", "moves"), [(mean_moves, True), (leader_stays, False)])
@settings(max_examples=times(60))
@given(scenes, thresholds)
def test_groups_form_box_by_box(group_box, moves, views, iou):
    ordered = sort_boxes(views, [1.0] * len(views))
    if len(ordered.score):
        groups = group(ordered, iou, group_box)
        np.testing.assert_array_equal(groups.leader[groups.group], box_by_box(ordered, iou, moves))


def test_a_group_that_moves_off_its_leader_keeps_its_members():
    """Each box lies farther right than all before it and still overlaps their mean, until none is near the first."""
    places = [0.0]
    for _ in range(60):
        places.append(np.average(places) + 28)
    views = [boxes((10 + x, 10, 110 + x, 60, 0.5 - 1e-4 * k)) for k, x in enumerate(places)]
    ordered = sort_boxes(views, [1.0] * len(views))
    np.testing.assert_array_equal(group(ordered, 0.55, mean_moves).leader, [0])
    np.testing.assert_array_equal(box_by_box(ordered, 0.55, True), 0)
    assert places[-1] > 100


@merges
def test_boxes_far_apart_are_merged_as_if_alone(merge):
    """More groups than are searched at a time."""
    far = [[boxes(), *scene(seed, 1)][-2:] for seed in range(120)]
    together = [
        Boxes(
            np.concatenate([views[k].xyxy + np.float32(128 * place) for place, views in enumerate(far)]),
            np.concatenate([views[k].score for views in far]),
            np.concatenate([views[k].label for views in far]),
        )
        for k in range(2)
    ]
    found = merged(merge, together)
    scores = np.concatenate([merged(merge, views).score for views in far])
    assert len(scores) > 600
    np.testing.assert_allclose(found.score, np.sort(scores)[::-1], atol=1e-3)


# ---- against ensemble_boxes ----


@pytest.fixture(scope="module")
def theirs():
    import ensemble_boxes

    return ensemble_boxes


def asked(function, views, **options):
    """Their (boxes in our frame, scores, labels), by falling score."""
    there = [v.xyxy.astype(np.float64) / SIDE for v in views]
    scores, labels = [v.score.astype(np.float64) for v in views], [v.label for v in views]
    xyxy, score, label = function(there, scores, labels, **options)
    order = np.argsort(-score, kind="stable")
    return xyxy[order] * SIDE, score[order], label[order]


def check(found, expected):
    for mine, other in zip((found.xyxy, found.score, found.label), expected, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5 * SIDE if mine.ndim == 2 else 1e-5)


CASES = [(scene(seed, 1 + seed % 3), iou) for seed in range(times(200)) for iou in (0.3, 0.55, 0.7)]
CASES = [(views, iou) for views, iou in CASES if sum(len(v.score) for v in views)]


def test_wbf_is_theirs(theirs):
    for views, iou in CASES:
        check(merged("wbf", views, iou=iou), asked(theirs.weighted_boxes_fusion, views, iou_thr=iou))


def test_weighted_wbf_is_theirs_up_to_one(theirs):
    compared = 0
    for number, (views, iou) in enumerate(CASES):
        weights = list(np.random.default_rng(number).uniform(0.3, 3, len(views)))
        expected = asked(theirs.weighted_boxes_fusion, views, iou_thr=iou, weights=weights)
        if expected[1].max() <= 1:
            check(merged("wbf", views, weights, iou=iou), expected)
            compared += 1
    assert compared > len(CASES) / 6


def test_nms_is_theirs(theirs):
    for views, iou in CASES:
        check(merged("nms", views, iou=iou), asked(theirs.nms, views, iou_thr=iou))


def test_soft_nms_is_theirs(theirs):
    """Their `soft_nms` keeps these boxes too, but returns the scores from before they decayed."""
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    def decayed(xyxy, score, label):
        xyxy, score, label = map(np.concatenate, (xyxy, score, label))
        kept = []
        for kind in np.unique(label):
            mine, decaying = np.flatnonzero(label == kind), score[label == kind]
            index = cpu_soft_nms_float(xyxy[mine], decaying, Nt=0.5, sigma=0.5, thresh=0.001, method=2)
            kept.append((xyxy[mine][index], decaying[decaying > 0.001], label[mine][index]))
        return map(np.concatenate, zip(*kept, strict=True))

    for views, iou in CASES[::3]:
        found = merged("soft_nms", views, iou=iou)
        check(found, asked(decayed, views))
        assert len(found.score) == len(asked(theirs.soft_nms, views, iou_thr=iou)[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_nmw_is_theirs(theirs, weighted):
    for number, (views, iou) in enumerate(CASES):
        weights = list(np.random.default_rng(number).uniform(0.3, 3, len(views))) if weighted else None
        expected = asked(theirs.non_maximum_weighted, views, iou_thr=iou, weights=weights)
        check(merged("nmw", views, weights, iou=iou), expected)


# ---- examples ----

TALL, SHORT = (0, 0, 10, 10, 0.8), (0, 0, 10, 8, 0.4)
"""They overlap by 0.8."""

EXAMPLES = {  # (y2, score, votes, spread) of each box
    "wbf": [(28 / 3, 0.6, 2, 2 / 3)],
    "nms": [(10, 0.8, 2, (2 / 3) ** 0.5)],
    "soft_nms": [(10, 0.8, 2, (2 / 3) ** 0.5), (8, 0.4 * np.exp(-1.28), 1, 0)],
    "nmw": [(10.56 / 1.12, 0.8, 2, ((0.8 * (0.64 / 1.12) ** 2 + 0.4 * (1.6 / 1.12) ** 2) / 2.4) ** 0.5)],
}


def summary(found):
    return np.column_stack((found.xyxy[:, 3], found.score, found.found_by, found.spread))


@merges
def test_two_views_of_one_object(merge):
    found = merged(merge, [boxes(SHORT), boxes(TALL)])
    np.testing.assert_allclose(summary(found), EXAMPLES[merge], rtol=1e-5)
    assert (found.visible_in == 2).all()
    assert (found.xyxy[:, :3] == [0, 0, 10]).all()


WEIGHTED = {
    "wbf": [(10 - 2 * 0.4 / 0.56, 0.56 / 1.2, 2)],
    "nms": [(8, 0.4, 2)],
    "soft_nms": [(8, 0.4, 2), (10, 0.16 * np.exp(-1.28), 1)],
    "nmw": [(8 + 2 * 0.128 / 0.528, 0.4, 2)],
}


@merges
def test_weights_multiply_scores(merge):
    """At weights 1 to 5 the tall box's score counts as 0.16, the short one's as 0.4."""
    found = merged(merge, [boxes(TALL), boxes(SHORT)], [1.0, 5.0])
    np.testing.assert_allclose(summary(found)[:, :3], WEIGHTED[merge], rtol=1e-5)


def test_views_that_show_a_box_and_do_not_find_it_lower_its_score():
    views = [boxes(TALL), boxes(), boxes(), boxes()]
    found = merged("wbf", views, [1.0, 2.0, 5.0, 3.0], visible_in(False, True, False, True))
    assert found.score[0] == pytest.approx(0.8 / (1 + 2 + 3))
    assert (found.found_by[0], found.visible_in[0]) == (1, 3)


def test_votes_count_views_not_boxes():
    found = merged("wbf", [boxes(TALL, SHORT), boxes()])
    assert (found.found_by[0], found.visible_in[0]) == (1, 2)
    assert found.score[0] == pytest.approx(0.6)


def test_two_boxes_of_one_heavy_view_score_at_most_one():
    found = merged("wbf", [boxes((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.9)), boxes()], [3.0, 1.0])
    assert found.score[0] == 1


@merges
def test_ties_keep_the_order_of_views_then_of_boxes(merge):
    places = np.random.default_rng(0).permutation(200)
    far = [(20 * x, 0, 20 * x + 10, 10, (0.25, 0.5)[x % 2]) for x in places]
    found = merged(merge, [boxes(*far[:123]), boxes(*far[123:])])
    np.testing.assert_array_equal(found.xyxy[:, 0], 20 * np.append(places[places % 2 == 1], places[places % 2 == 0]))


@merges
@pytest.mark.parametrize(
    "views", [[], [boxes()], [boxes(), boxes((5, 5, 5, 9, 0.9), (5, 5, 9, 4, 0.9), (0, 0, 1, 1, 0))]]
)
def test_nothing_to_merge(merge, views):
    found = merged(merge, views)
    assert found.xyxy.shape == (0, 4)
    assert found.label.dtype == np.intp


@merges
def test_visibility_is_computed_once(merge):
    asked_for = []

    def visible(xyxy):
        asked_for.append(xyxy)
        return np.ones((2, len(xyxy)), np.bool_)

    found = merged(merge, [boxes(TALL, (50, 50, 60, 60, 0.9)), boxes(SHORT)], visible=visible)
    assert len(asked_for) == 1
    assert asked_for[0].dtype == np.float32
    assert {tuple(row) for row in asked_for[0]} == {tuple(row) for row in found.xyxy}


def test_a_box_whose_score_decays_is_left_out():
    found = merged("soft_nms", [boxes((0, 0, 10, 10, 0.9), (0, 0, 10, 10, 0.007)), boxes((50, 50, 60, 60, 0.0009))])
    assert len(found.score) == 1
    assert found.spread[0] == 0


def test_a_box_votes_for_itself_and_for_the_first_that_weakens_it():
    found = merged("soft_nms", [boxes((0, 0, 10, 10 - k, 0.9 - 0.1 * k)) for k in range(3)])
    assert found.found_by.tolist() == [3, 1, 1]
