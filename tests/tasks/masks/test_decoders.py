"""Segmentation with `multilabel: true`: labels that overlap; and agreement by class, of both kinds of mask."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.patterns import noise
from tests.support.rendered import paint, rendered
from tta_server.errors import InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.merging import LABEL_MERGES
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("cell", "nucleus")
AS_IT_IS = Preprocessing(multiple=1)
PREPARATIONS = {
    "as it is": AS_IT_IS,
    "enlarged": Preprocessing(Size(24, 20), Resize.EXACT),
    "letterbox": Preprocessing(Size(24, 24), Resize.LETTERBOX),
}
POLICY = [
    read_view(spec)
    for spec in (
        "identity",
        "hflip",
        {"crop": {"fraction": 0.6, "anchor": "top_left"}, "weight": 2},
        {"shift": [5, -3]},
        {"rotate": 12, "weight": 0.3},
    )
]
IMAGE = Size(31, 23)

bounded = pytest.mark.parametrize("merge", ["mean_probabilities", "vote"])
merges = pytest.mark.parametrize("merge", LABEL_MERGES)


def task(labels=LABELS, kind="probabilities", multilabel=True, threshold=0.5):
    form = MapsOutput(kind, multilabel=multilabel, threshold=threshold)
    return Segmentation(labels, form, {"maps": (None, len(labels), None, None)})


class Scenery:
    """One image's views, and a model's noisy maps of them: cells on the left, nuclei in the middle."""

    def __init__(self, prep, segmentation=None, image=IMAGE, policy=POLICY):
        self.task = segmentation or task()
        self.policy = policy
        self.placements = [prep.place(view, image) for view in policy]
        self.scene = ImageFrame(image, self.placements[0])

    def prediction(self, index, scores):
        shape = (2, *self.placements[index].tensor[::-1])
        scores = np.broadcast_to(np.float32(scores), shape)
        return self.task.decode({"maps": scores[None]}, 0, self.placements[index], self.scene)

    def drawn(self, index, source, request_reprice):
        height, width = self.placements[index].tensor[::-1]
        scores = np.zeros((2, height, width))
        scores[0, :, : width // 2] = 1
        scores[1, :, width // 3 : 2 * width // 3] = 1
        return self.prediction(index, scores * (1 - request_reprice) + source.random(scores.shape) * request_reprice)

    def merged(self, merge, predictions, wanted=None):
        accumulator = self.task.accumulator(merge, wanted or ResponseSpec(), self.scene)
        for view, prediction in zip(self.policy, predictions, strict=False):
            accumulator.add(prediction, view.weight)
        return accumulator

    def remaining(self, done):
        return [(p, v.weight) for p, v in list(zip(self.placements, self.policy, strict=True))[done:]]

    def masks(self, accumulator):
        return self.task.result(accumulator.result(), [], self.scene, ResponseSpec()).masks


def picture(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# ---- laws ----


@bounded
@pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("threshold", [0.3, 0.5])
@given(
    seed=st.integers(0, 2**32 - 1), request_reprice=st.sampled_from([0.02, 0.4, 1]), done=st.integers(1, len(POLICY))
)
def test_no_more_pixels_change_than_were_undecided(merge, prep, threshold, seed, request_reprice, done):
    """At the image's own size, with views that show only a part, for any predictions that follow."""
    scenery, source = Scenery(prep, task(threshold=threshold)), np.random.default_rng(seed)
    ran = [scenery.drawn(index, source, request_reprice) for index in range(done)]
    now = scenery.merged(merge, ran)
    undecided, masks = now.undecided(scenery.remaining(done)), scenery.masks(now)
    rest = range(done, len(POLICY))
    for follows in (
        [scenery.prediction(i, 0) for i in rest],
        [scenery.prediction(i, 1) for i in rest],
        [scenery.prediction(i, [[[0]], [[1]]]) for i in rest],
        [scenery.drawn(i, source, 1) for i in rest],
    ):
        changed = (masks != scenery.masks(scenery.merged(merge, ran + follows))).any(axis=0)
        assert changed.mean() <= undecided + 1e-9


@merges
@given(st.integers(0, 2**32 - 1), st.permutations(range(len(POLICY))))
def test_order_does_not_matter(merge, seed, order):
    scenery, source = Scenery(AS_IT_IS), np.random.default_rng(seed)
    predictions = [scenery.drawn(index, source, 0.7) for index in range(len(POLICY))]
    straight, shuffled = (
        scenery.merged(merge, predictions),
        scenery.task.accumulator(merge, ResponseSpec(), scenery.scene),
    )
    for index in order:
        shuffled.add(predictions[index], POLICY[index].weight)
    np.testing.assert_allclose(straight.result().scores, shuffled.result().scores, atol=1e-5)


@merges
@given(st.integers(0, 2**32 - 1))
def test_one_view_is_the_model_s_own_output(merge, seed):
    scenery, source = Scenery(AS_IT_IS), np.random.default_rng(seed)
    scores = source.random((2, *IMAGE[::-1]), np.float32)
    result = scenery.merged(merge, [scenery.prediction(0, scores)]).result().scores
    np.testing.assert_allclose(result, scores >= 0.5 if merge == "vote" else scores, atol=2e-6)


@merges
@given(st.integers(0, 2**32 - 1))
def test_large_logits_stay_probabilities(merge, seed):
    scenery, source = Scenery(AS_IT_IS, task(kind="logits")), np.random.default_rng(seed)
    drawn = [source.choice([-1e4, 0, 1e4], (2, *p.tensor[::-1])) for p in scenery.placements]
    result = scenery.merged(merge, [scenery.prediction(i, d) for i, d in enumerate(drawn)]).result().scores
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


# ---- by hand ----

CELL = np.repeat([[1, 1, 1, 1, 0, 0]], 4, axis=0)
NUCLEUS = np.repeat([[0, 1, 1, 0, 0, 1]], 4, axis=0)


def answered(views, include=(), segmentation=None, image=None, prep=AS_IT_IS):
    """The answer to views' maps (C, h, w) of probabilities on the plain view's tensor."""
    segmentation, wanted, image = segmentation or task(), ResponseSpec(frozenset(include)), image or Size(6, 4)
    scene = ImageFrame(image, prep.place(View(), image))
    accumulator = segmentation.accumulator("mean_probabilities", wanted, scene)
    for maps in views:
        accumulator.add(segmentation.decode({"maps": np.float32(maps)[None]}, 0, scene.plain, scene), 1.0)
    return rendered(segmentation.result(accumulator.result(), [], scene, wanted), wanted)


def test_masks_may_overlap_and_leave_pixels_without_label():
    answer = answered([[CELL, NUCLEUS]])
    assert answer.prediction.keys() == {"height", "width", "area", "masks"}
    np.testing.assert_array_equal(picture(answer.prediction["masks"]["cell"]), CELL)
    np.testing.assert_array_equal(picture(answer.prediction["masks"]["nucleus"]), NUCLEUS)
    assert answer.prediction["area"] == {"cell": 16, "nucleus": 12}
    assert answer.picture is None
    assert not task().has_picture


@pytest.mark.parametrize(("threshold", "area"), [(0.2, 24), (0.5, 16), (0.8, 8)])
def test_a_label_is_where_it_reaches_the_threshold(threshold, area):
    levels = np.repeat([[0.9, 0.8, 0.5, 0.5, 0.2, 0.2]], 4, axis=0)
    answer = answered([[levels, levels]], segmentation=task(threshold=threshold))
    assert answer.prediction["area"] == {"cell": area, "nucleus": area}


def test_masks_are_enlarged_to_the_image():
    answer = answered([[[[1, 0]], [[0, 0]]]], image=Size(300, 200), prep=Preprocessing(Size(2, 1), Resize.EXACT))
    mask = picture(answer.prediction["masks"]["cell"])
    np.testing.assert_array_equal(mask[:, :149], True)
    np.testing.assert_array_equal(mask[:, 151:], False)
    assert answer.prediction["area"]["nucleus"] == 0


def test_agreement_is_the_share_of_views_on_the_merged_side():
    """Three views; one finds no cells and one no nuclei. In CELL, 2 of 3 vote for cells, elsewhere all vote against."""
    views = [[CELL, NUCLEUS], [0 * CELL, NUCLEUS], [CELL, 0 * NUCLEUS]]
    answer = answered(views, ["agreement", "uncertainty"])
    cell, nucleus = np.where(CELL, 2 / 3, 1), np.where(NUCLEUS, 2 / 3, 1)
    shares = picture(answer.prediction["agreement"]) / 255
    np.testing.assert_allclose(shares, (cell + nucleus) / 2, atol=0.005)
    assert answer.prediction["mean_agreement"] == pytest.approx((cell.mean() + nucleus.mean()) / 2, abs=1e-6)
    unsure = answer.uncertainty
    assert unsure["agreement"] == pytest.approx((cell.mean() + nucleus.mean()) / 2, abs=1e-6)
    assert unsure["agreement_by_class"] == pytest.approx({"cell": cell.mean(), "nucleus": nucleus.mean()}, abs=1e-6)


def test_agreement_by_class_is_the_mean_over_the_pixels_of_that_class():
    """Of masks of one class a pixel. Columns: all vote for ground, 2 of 3 for trees, all for trees; there is no sky."""
    one_hot = [
        (np.repeat([row], 2, axis=0) == np.arange(3)[:, None, None]) for row in ([0, 1, 1], [0, 1, 1], [0, 0, 1])
    ]
    segmentation = task(("ground", "tree", "sky"), multilabel=False)
    answer = answered(one_hot, ["uncertainty"], segmentation, Size(3, 2))
    assert answer.uncertainty == {
        "agreement": pytest.approx(8 / 9, abs=1e-6),
        "agreement_by_class": pytest.approx({"ground": 1, "tree": 5 / 6}, abs=1e-6),
    }
    assert "agreement" not in answer.prediction


@bounded
def test_a_mask_that_no_view_can_change_is_decided(merge):
    scenery = Scenery(AS_IT_IS)
    sure = [scenery.prediction(index, [[[1]], [[0]]]) for index in range(4)]
    assert scenery.merged(merge, sure).undecided(scenery.remaining(4)) == 0
    assert scenery.merged(merge, sure[:1]).undecided(scenery.remaining(1)) == 1


@bounded
def test_open_pixels_are_those_that_the_remaining_view_shows(merge):
    """It shows the left half, with twice the weight."""
    half = read_view({"crop": {"fraction": 0.5, "anchor": "top_left"}, "weight": 2})
    scenery = Scenery(AS_IT_IS, image=Size(24, 16), policy=[View(), half])
    now = scenery.merged(merge, [scenery.prediction(0, [[[1]], [[0]]])])
    assert now.undecided(scenery.remaining(1)) == pytest.approx(0.25, abs=0.08)


def test_stop_certain_is_refused_where_nothing_is_certain():
    with pytest.raises(InvalidInput, match="merge mean_logits has no bound"):
        task().check_bounded("mean_logits", [1.0])
    with pytest.raises(InvalidInput, match="no pixel is certain before the last view"):
        task().check_bounded("vote", [1.0, (1.0, 2.0)])


def test_confidence_is_the_mean_probability_of_the_answered_labels():
    scenery = Scenery(AS_IT_IS, image=Size(6, 4))
    merged = scenery.merged("mean_probabilities", [scenery.prediction(0, [[[0.9]], [[0.2]]])])
    assert scenery.task.confidence(merged.result()) == pytest.approx(0.85)


def test_probabilities_are_pictures_of_16_bits():
    pictures = answered([[0.5 * CELL, NUCLEUS]], ["probabilities"]).prediction["probabilities"]
    np.testing.assert_allclose(picture(pictures["cell"]), CELL * 0.5 * 65535, atol=1)
    np.testing.assert_allclose(picture(pictures["nucleus"]), NUCLEUS * 65535, atol=1)


def test_each_label_is_painted_over_the_image():
    pixels = noise(Size(6, 4))
    painted = paint(answered([[CELL, NUCLEUS]]).result, pixels)
    changed = (painted != pixels).any(axis=2)
    np.testing.assert_array_equal(changed, (CELL | NUCLEUS).astype(bool))
    np.testing.assert_array_equal(pixels, noise(Size(6, 4)))


def test_an_answer_is_json():
    answer = answered([[CELL, 0 * NUCLEUS]] * 2, ["agreement", "uncertainty", "probabilities"])
    json.dumps([answer.prediction, answer.uncertainty], allow_nan=False)
    assert answer.lines == ["cell 66.7%"]


def test_merges_are_those_of_labels():
    assert tuple(task().merges) == tuple(LABEL_MERGES)
    assert "geometric_mean" in task(multilabel=False).merges


def test_a_pixel_of_which_all_labels_are_ruled_out_is_sound():
    scenery = Scenery(AS_IT_IS, task(kind="logits"), image=Size(6, 4))
    assert scenery.task.is_sound(scenery.prediction(0, np.where([CELL, NUCLEUS], 3.0, -np.inf)))


@pytest.mark.parametrize("form", [{"threshold": -0.1}, {"threshold": 1.1}, {"offset": 2}])
def test_numbers_out_of_range_are_refused(form):
    with pytest.raises(ValueError, match=f"{next(iter(form))} takes a number from 0 to 1"):
        MapsOutput("logits", **form)
