"""Stop rules keep their promises, whatever the views that did not run would have said."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.errors import InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.scheduling.stopping import All, Certain, Confident, Precise, Settled, StopReason, StopSpec, read_stop
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import ScoresOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View, Weight

BOUNDED = pytest.mark.parametrize("merge", ["mean_probabilities", "vote"])


@dataclass
class Progress:
    """What a rule is asked about: an answer so far, and the views that may still come."""

    accumulator: Any
    remaining: list[tuple[Any, Weight]]
    views: int = 0

    def margin(self) -> float:
        return self.accumulator.margin()

    def views_in_order(self) -> int:
        return self.views

    def undecided(self) -> float:
        return self.accumulator.undecided(self.remaining)


# ---- one label ----

PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)
CLASSES = st.shared(st.integers(1, 6), key="classes")


def vectors(classes: int) -> st.SearchStrategy[Any]:
    """Probabilities, many with ties or zeros; some classes much likelier, as trained models find them."""
    sharp = st.lists(st.sampled_from([0, 1, 1, 2, 5, 100]), min_size=classes, max_size=classes).filter(any)
    return sharp.map(lambda parts: np.array(parts, np.float32) / np.float32(sum(parts)))


def weights(classes: int) -> st.SearchStrategy[Weight]:
    number = st.floats(0.01, 100)
    by_class = st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 7.5])] * classes).filter(any)
    return st.one_of(st.just(1.0), number, by_class)


weighted_views = CLASSES.flatmap(lambda c: st.lists(st.tuples(vectors(c), weights(c)), min_size=1, max_size=9))


def label(accumulator: Any) -> int:
    return int(accumulator.result().argmax())


def merged(merge: str, views: Any) -> Any:
    labels = [str(c) for c in range(len(views[0][0]))]
    accumulator = Classification(labels, ScoresOutput("probabilities"), {"scores": (None, len(labels))}).accumulator(
        merge, ResponseSpec(), SCENE
    )
    for vector, weight in views:
        accumulator.add(vector, weight)
    return accumulator


@BOUNDED
@given(weighted_views, st.sets(st.integers(0, 8)))
def test_a_certain_label_is_that_of_all_views_and_of_any_of_them(merge: str, views: Any, lost: set[int]) -> None:
    """What follows may be what is drawn, or all for one class, and any of it may be lost to NaN."""
    for done in range(1, len(views) + 1):
        ran, left = views[:done], views[done:]
        progress = Progress(merged(merge, ran), [(PLAIN, weight) for _, weight in left])
        if Certain().decide(progress) is None:
            continue
        for follows in [left, *against(left, len(views[0][0]))]:
            assert label(merged(merge, ran + follows)) == label(progress.accumulator)
            survived = [view for number, view in enumerate(follows) if number not in lost]
            assert label(merged(merge, ran + survived)) == label(progress.accumulator)


def against(views: Any, classes: int) -> list[Any]:
    """For each class, those views as if all were sure of it."""
    return [[(one, weight) for _, weight in views] for one in np.eye(classes, dtype=np.float32)]


@BOUNDED
def test_certainty_comes_with_the_last_view_that_could_matter(merge: str) -> None:
    sure, other = np.float32([0.99, 0.01]), 1.0
    reasons = []
    for done in (1, 2, 3, 4):
        progress = Progress(merged(merge, [(sure, 1.0)] * done), [(PLAIN, other)] * (4 - done))
        reasons.append(Certain().decide(progress))
    assert reasons == [None, None, StopReason.CERTAIN, StopReason.CERTAIN]


@BOUNDED
def test_a_tie_is_never_certain_before_the_end(merge: str) -> None:
    tied = merged(merge, [(np.float32([0, 1, 0]), 1.0), (np.float32([0, 0, 1]), 1.0)])
    assert Certain().decide(Progress(tied, [(PLAIN, 0.001)])) is None


def test_one_class_alone_is_certain_at_once() -> None:
    progress = Progress(merged("vote", [(np.float32([1]), 1.0)]), [(PLAIN, 5.0)])
    assert Certain().decide(progress) is StopReason.CERTAIN
    assert progress.margin() == 1


@given(st.floats(0, 1), weighted_views)
def test_confident_is_a_margin_that_reaches_the_threshold(threshold: float, views: Any) -> None:
    """Which falls with the root of the number of views; out of the policy's order nothing was calibrated."""
    answer = merged("mean_probabilities", views)
    in_order, out_of_order = Progress(answer, [], len(views)), Progress(answer, [], 0)
    stops = Confident(threshold).decide(in_order) is StopReason.CONFIDENT
    assert stops == (answer.margin() * len(views) ** 0.5 >= threshold)
    assert Confident(threshold).decide(out_of_order) is None


# ---- a mask ----

PREPARATIONS = {
    "as it is": Preprocessing(multiple=8),
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
        ["hflip", {"zoom": 1.5}],
        {"rotate": 12, "weight": 0.3},
    )
]
IMAGE = Size(43, 37)
SEGMENTATION = Segmentation(("ground", "tree", "sky"), MapsOutput("probabilities"), {"maps": (None, 3, None, None)})


class Scenery:
    """One image's views; a prediction is what a model that sees a sky over trees would say, less or more sure."""

    def __init__(self, prep: Preprocessing, stride: int) -> None:
        self.placements = [prep.place(view, IMAGE) for view in POLICY]
        self.scene = ImageFrame(IMAGE, self.placements[0])
        self._stride = stride

    def prediction(self, index: int, scores: Any) -> Any:
        return SEGMENTATION.decode({"maps": scores[None]}, 0, self.placements[index], self.scene)

    def shape(self, index: int) -> tuple[int, int, int]:
        tensor = self.placements[index].tensor
        return 3, tensor.height // self._stride, tensor.width // self._stride

    def drawn(self, index: int, source: np.random.Generator, request_reprice: float) -> Any:
        shape = self.shape(index)
        scores = source.random(shape) * request_reprice
        scores[2, : shape[1] // 2] += 1
        scores[1, shape[1] // 2 :] += 1
        return self.prediction(index, np.float32(scores / scores.sum(axis=0)))

    def all_for(self, index: int, classes: Any) -> Any:
        """As sure as can be, of one class everywhere or of a class for each cell."""
        grid = np.broadcast_to(classes, self.shape(index)[1:])
        return self.prediction(index, np.float32(grid == np.arange(3)[:, None, None]))

    def merged(self, merge: str, predictions: Any) -> Any:
        accumulator = SEGMENTATION.accumulator(merge, ResponseSpec(), self.scene)
        for view, prediction in zip(POLICY, predictions, strict=False):
            accumulator.add(prediction, view.weight)
        return accumulator

    def mask(self, accumulator: Any) -> Any:
        result: Any = SEGMENTATION.result(accumulator.result(), [], self.scene, ResponseSpec())
        return result.mask


@BOUNDED
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
@given(
    seed=st.integers(0, 2**32 - 1), request_reprice=st.sampled_from([0.02, 0.3, 1.5]), done=st.integers(1, len(POLICY))
)
def test_no_more_pixels_change_than_were_undecided(
    merge: str, stride: int, prep: Preprocessing, seed: int, request_reprice: float, done: int
) -> None:
    """At the image's own size, with views that see only a part, whatever follows."""
    source, scenery = np.random.default_rng(seed), Scenery(prep, stride)
    ran = [scenery.drawn(index, source, request_reprice) for index in range(done)]
    now = scenery.merged(merge, ran)
    remaining = [(scenery.placements[i], POLICY[i].weight) for i in range(done, len(POLICY))]
    undecided, mask = now.undecided(remaining), scenery.mask(now)
    rest = range(done, len(POLICY))
    random_cells = [[source.integers(0, 3, scenery.shape(i)[1:]) for i in rest] for _ in range(2)]
    for classes in [*([c] * len(rest) for c in range(3)), *random_cells]:
        follows = [scenery.all_for(i, c) for i, c in zip(rest, classes, strict=True)]
        changed = np.mean(mask != scenery.mask(scenery.merged(merge, ran + follows)))
        assert changed <= undecided + 1e-9


@BOUNDED
def test_a_mask_that_nothing_can_change_is_certain_and_settled(merge: str) -> None:
    scenery = Scenery(PREPARATIONS["enlarged"], 1)
    ran = [scenery.all_for(index, 1) for index in range(5)]
    progress = Progress(scenery.merged(merge, ran), [(scenery.placements[5], POLICY[5].weight)])
    assert Certain().decide(progress) is StopReason.CERTAIN
    assert Settled(0.01).decide(progress) is StopReason.SETTLED


def test_settled_takes_a_share_of_open_pixels() -> None:
    """The last view sees the top left 0.6 of the sides; ground and trees are even there, all is trees elsewhere."""
    scenery = Scenery(PREPARATIONS["as it is"], 1)
    even = scenery.prediction(0, np.full(scenery.shape(0), 0.5, np.float32) * np.float32([1, 1, 0])[:, None, None])
    progress = Progress(scenery.merged("mean_probabilities", [even]), [(scenery.placements[2], 0.5)])
    assert progress.undecided() == 1, "what is even may fall either way wherever it is looked at, and elsewhere too"
    sure = scenery.all_for(0, 1)
    progress = Progress(scenery.merged("mean_probabilities", [sure]), [(scenery.placements[2], 2.0)])
    share = progress.undecided()
    assert share == pytest.approx(0.36, abs=0.05)
    assert Settled(share).decide(progress) is StopReason.SETTLED
    assert Settled(share - 0.01).decide(progress) is None
    assert Certain().decide(progress) is None


# ---- as they are written ----


@pytest.mark.parametrize(
    ("written", "spec", "json"),
    [
        ("all", StopSpec("all"), "all"),
        ("certain", StopSpec("certain"), "certain"),
        ({"epsilon": 0.01}, StopSpec("epsilon", 0.01), {"epsilon": 0.01}),
        ('{"epsilon": 0.01}', StopSpec("epsilon", 0.01), {"epsilon": 0.01}),
        (' {"open":1e-3}', StopSpec("open", 0.001), {"open": 0.001}),
    ],
)
def test_what_may_be_written(written: Any, spec: StopSpec, json: Any) -> None:
    assert read_stop(written) == spec
    assert spec.to_json() == json
    assert read_stop(str(spec)) == spec


@pytest.mark.parametrize(
    "written",
    [
        "maybe", "", "{", "{}", "[]", '{"epsilon": 0}', '{"epsilon": 1}', '{"epsilon": true}', '{"epsilon": NaN}',
        '{"epsilon": "0.1"}', '{"epsilon": 0.1, "open": 0.1}', '{"margin": 0.1}', {"epsilon": -0.1}, 0.1, None,
        "{" * 50_000, {"all": None},
    ],
)  # fmt: skip
def test_anything_else_is_refused_naming_what_is_known(written: Any) -> None:
    with pytest.raises(InvalidInput, match=r"unknown stop .*; known: all, certain, {\"epsilon\""):
        read_stop(written)


def test_all_never_stops() -> None:
    assert All().decide(Progress(merged("vote", [(np.float32([1, 0]), 1.0)]), [])) is None


# ---- after how many views a rule is expected to stop ----


@dataclass
class Steady:
    """Evidence with the same margin and standard error after any number of views."""

    lead: float = 0.0
    error: float = 1.0
    views: int = 1

    def margin(self) -> float:
        return self.lead

    def views_in_order(self) -> int:
        return self.views

    def undecided(self) -> float:
        raise AssertionError("not asked for")

    def standard_error(self) -> float:
        return self.error


def test_without_evidence_a_rule_is_expected_to_stop_as_soon_as_it_can() -> None:
    """Of 8 equal views 5 are the first to outweigh the rest; a margin of 1 times the root of 3 exceeds 1.5."""
    assert All().expected_views(None, 0, 8) == 8
    assert Certain().expected_views(None, 0, 8) == 5
    assert Settled(0.01).expected_views(None, 0, 8) == 5
    assert Confident(1.5).expected_views(None, 0, 8) == 3
    assert Confident(0.4).expected_views(None, 0, 8) == 1
    assert Precise(0.1).expected_views(None, 0, 8) == 2


def test_with_evidence_a_rule_is_expected_to_stop_when_the_margin_suffices() -> None:
    """k views with a mean lead of 0.25 outweigh 8 - k once k > 8 / 1.25; 0.2 times the root of 7 exceeds 0.5."""
    assert Certain().expected_views(Steady(0.25), 2, 8) == 7
    assert Confident(0.5).expected_views(Steady(0.2), 2, 8) == 7
    assert Precise(0.5).expected_views(Steady(error=0.7), 4, 8) == 8
    assert Precise(0.5).expected_views(Steady(error=math.inf), 1, 8) == 2


@given(
    st.sampled_from([All(), Certain(), Settled(0.01), Confident(0.5), Confident(0.0), Precise(0.1)]),
    st.integers(2, 32),
    st.data(),
)
def test_it_is_always_expected_to_take_one_more_view(rule: Any, planned: int, data: st.DataObject) -> None:
    done = data.draw(st.integers(1, planned - 1))
    evidence = Steady(data.draw(st.floats(0, 1)), data.draw(st.floats(0, math.inf)), done)
    assert done < rule.expected_views(evidence, done, planned) or isinstance(rule, All)


@given(st.integers(1, 16), st.data())
def test_certain_stops_an_answer_of_equal_views_not_before_it_is_expected_to(planned: int, data: st.DataObject) -> None:
    classes = data.draw(CLASSES)
    views = [(data.draw(vectors(classes)), 1.0) for _ in range(planned)]
    for done in range(1, planned):
        progress = Progress(merged("mean_probabilities", views[:done]), [(PLAIN, 1.0)] * (planned - done))
        if Certain().decide(progress) and classes > 1:
            assert done >= Certain().expected_views(None, 0, planned)
