"""Segmentation with `kind: classes`: maps of class numbers, merged by vote."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support.patterns import noise, size_of, smooth
from tests.support.rendered import paint, rendered
from tests.tasks.masks.test_maps import EXACT_VIEWS, PREPARATIONS, RAW, SAMPLED_VIEWS, model_input
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.base import Accumulator
from tta_server.tasks.checks import CardRun
from tta_server.tasks.masks.class_maps import NO_CLASS, ClassMaps, VoteAccumulator, read_classes
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.kinds import CLASS_KINDS
from tta_server.tasks.scores.merging import MERGES, ScoreAccumulator
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("ground", "tree", "sky")
AS_IT_IS = Preprocessing(normalization=RAW)
Numbers = NDArray[Any]


def task(labels: Sequence[str] = LABELS, shape: tuple[int | None, ...] = (None, None, None), **more: Any) -> Any:
    return Segmentation(labels, MapsOutput("classes", **more), {"maps": shape})


def frame_of(prep: Preprocessing, image: Size) -> ImageFrame:
    return ImageFrame(image, prep.place(View(), image))


def decoded(prep: Preprocessing, image: Size, spec: Any, numbers: Numbers, segmentation: Any = None) -> ClassMaps:
    placement, outputs = prep.place(read_view(spec), image), {"maps": numbers[None]}
    found = (segmentation or task()).decode(outputs, 0, placement, frame_of(prep, image))
    assert isinstance(found, ClassMaps)
    return found


def covered(maps: ClassMaps) -> NDArray[np.bool_]:
    return np.ones(maps.classes.shape, bool) if maps.coverage is None else maps.coverage > 0


# ---- laws of undoing ----

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
images = st.builds(Size, st.integers(40, 110), st.integers(40, 110))


def by_view(prep: Preprocessing, pixels: NDArray[np.uint8], spec: Any, of: Any) -> tuple[ClassMaps, Numbers]:
    """What a model that gives a class for each pixel gives for a view, undone; and for the plain view's frame."""
    tensor, _ = model_input(prep, pixels, read_view(spec))
    plain, placement = model_input(prep, pixels, View())
    (x, y), (width, height) = placement.inset, placement.frame
    found = decoded(prep, size_of(pixels), spec, of(tensor[0]))
    return found, plain[0, y : y + height, x : x + width]


@prepared
@given(st.sampled_from(EXACT_VIEWS), images)
def test_undoing_an_exact_view_gives_the_plain_view_s_classes_where_it_is_shown(
    prep: Preprocessing, spec: Any, image: Size
) -> None:
    def of(red: Numbers) -> Numbers:
        return red.astype(np.int64) % 3

    found, plain = by_view(prep, noise(image), spec, of)
    here = covered(found)
    np.testing.assert_array_equal(found.classes[here], of(plain)[here])


@prepared
@given(st.sampled_from(SAMPLED_VIEWS), images)
def test_undoing_an_interpolated_view_moves_no_edge_by_much(prep: Preprocessing, spec: Any, image: Size) -> None:
    def of(red: Numbers) -> Numbers:
        return (red > 100).astype(np.uint8) + (red > 160)

    found, plain = by_view(prep, smooth(image), spec, of)
    clear = covered(found) & (np.abs(plain - 100) > 20) & (np.abs(plain - 160) > 20)
    wrong = (found.classes != of(plain)) & clear
    assert wrong.sum() <= 0.02 * wrong.size  # at the edge of a view half a pixel beyond it is mixed in


@given(st.sampled_from(SAMPLED_VIEWS), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2), min_size=1))
def test_interpolation_makes_no_class_that_the_model_did_not_give(spec: Any, seed: int, given_: list[int]) -> None:
    """Between 0 and 2 there is no 1."""
    image = Size(45, 31)
    shape = AS_IT_IS.place(read_view(spec), image).tensor[::-1]
    numbers = np.random.default_rng(seed).choice(given_, shape)
    found = decoded(AS_IT_IS, image, spec, numbers)
    assert set(np.unique(found.classes)) <= set(given_)


def test_ties_between_cells_go_to_the_lower_class() -> None:
    """Each cell of a view that is shifted by half a cell lies between two of the model's."""
    numbers = np.arange(8) % 2 * 2 * np.ones((8, 1), int)
    found = decoded(AS_IT_IS, Size(8, 8), {"shift": [0.5, 0]}, numbers)
    np.testing.assert_array_equal(found.classes[:, 1:-1], 0)


def test_of_three_classes_the_largest_share_counts() -> None:
    """Each cell has half of class 1, and 3/8 and 1/8 of the others."""
    numbers = np.tile([[1, 2], [1, 0]], (4, 4))
    found = decoded(AS_IT_IS, Size(8, 8), {"shift": [0.5, 0.25]}, numbers)
    np.testing.assert_array_equal(found.classes[1:-1, 1:-1], 1)


def test_bars_are_not_mixed_into_the_image() -> None:
    """A model that gives the bars of a letterbox class 2, and the image class 0."""
    prep, image = PREPARATIONS["letterbox"], Size(90, 30)
    placement = prep.place(read_view({"rotate": 11}), image)
    numbers = np.full(placement.tensor[::-1], 2)
    (x, y), (width, height) = placement.inset, placement.frame
    numbers[y : y + height, x : x + width] = 0
    np.testing.assert_array_equal(decoded(prep, image, {"rotate": 11}, numbers).classes, 0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([{"crop": 0.5}, {"rotate": 10}, {"shift": [8, 0]}]))
def test_no_class_is_covered_and_nothing_beyond_the_view(seed: int, spec: Any) -> None:
    image = Size(45, 31)
    shape = AS_IT_IS.place(read_view(spec), image).tensor[::-1]
    numbers = np.random.default_rng(seed).choice([0, 1, NO_CLASS], shape)
    whole = decoded(AS_IT_IS, image, spec, np.zeros(shape, int))
    found = decoded(AS_IT_IS, image, spec, numbers)
    np.testing.assert_array_equal(covered(found), covered(whole) & (found.classes < len(LABELS)))


# ---- laws of merging ----

SYMMETRIES: dict[str, tuple[Any, Any]] = {
    "identity": ("identity", lambda m: m),
    "hflip": ("hflip", lambda m: m[:, ::-1]),
    "vflip": ("vflip", lambda m: m[::-1]),
    "rot180": ({"rot90": 2}, lambda m: m[::-1, ::-1]),
    "rot90": ({"rot90": 1}, lambda m: np.rot90(m, 1)),
    "rot270": ({"rot90": 3}, lambda m: np.rot90(m, 3)),
    "transpose": ("transpose", lambda m: m.T),
}
"""A view, and what it does to the image."""
sides = st.builds(Size, st.integers(2, 9), st.integers(2, 9))
votes = st.lists(st.tuples(st.sampled_from(list(SYMMETRIES)), st.integers(1, 3)), min_size=1, max_size=6)


def accumulated(prep: Preprocessing, image: Size, views: Sequence[tuple[Any, Numbers, float]], **spec: Any) -> Any:
    segmentation = task()
    wanted = ResponseSpec(frozenset(spec.get("include", ())))
    accumulator: Accumulator[Any, Any] = segmentation.accumulator("vote", wanted, frame_of(prep, image))
    for view, numbers, weight in views:
        accumulator.add(decoded(prep, image, view, numbers, segmentation), weight)
    return accumulator


def result_of(prep: Preprocessing, image: Size, views: Sequence[tuple[Any, Numbers, float]], include: Any = ()) -> Any:
    segmentation, wanted = task(), ResponseSpec(frozenset(include))
    merged = accumulated(prep, image, views, include=include).result()
    kept = [segmentation.view_result(decoded(prep, image, view, numbers)) for view, numbers, _ in views]
    return segmentation.result(merged, kept, frame_of(prep, image), wanted)


@given(sides, votes, st.integers(0, 2**32 - 1), st.sampled_from([[0, 1, 2], [0, 2, NO_CLASS]]))
def test_the_mask_is_the_class_with_the_most_votes(
    image: Size, chosen: list[tuple[str, int]], seed: int, numbers: list[int]
) -> None:
    """Counted by hand; 255 is no vote, and the answer where there is none; ties go to the lower class."""
    source = np.random.default_rng(seed)
    counts = np.zeros((256, *image[::-1]))
    views = []
    for name, weight in chosen:
        spec, turned = SYMMETRIES[name]
        upright = source.choice(numbers, image[::-1])
        counts += weight * (upright == np.arange(256).reshape(-1, 1, 1))
        views.append((spec, np.ascontiguousarray(turned(upright)), float(weight)))
    expected = np.where(counts[:3].max(axis=0) > 0, counts[:3].argmax(axis=0), NO_CLASS)
    result = result_of(AS_IT_IS, image, views)
    assert result.mask.dtype == np.uint8
    np.testing.assert_array_equal(result.mask, expected)
    np.testing.assert_array_equal(result.area, np.bincount(expected.ravel(), minlength=256)[:3])


@given(st.sampled_from(["uint8", "int8", "int32", "int64", "float16", "float32", "float64"]), st.integers(0, 2**32 - 1))
def test_the_type_and_the_axis_of_classes_do_not_matter(dtype: str, seed: int) -> None:
    image = Size(7, 5)
    numbers = np.random.default_rng(seed).integers(0, 3, (2, 5, 7))
    forms = {
        "NCHW": [(numbers, (None, None, None)), (numbers[:, None], (None, 1, None, None))],
        "NHWC": [(numbers, (None, 5, 7)), (numbers[..., None], (None, None, None, 1))],
    }
    for layout, outputs in forms.items():
        for output, shape in outputs:
            segmentation = task(shape=shape, layout=layout)
            segmentation.check({"maps": output.astype(dtype)}, image)
            found = segmentation.decode(
                {"maps": output.astype(dtype)}, 1, AS_IT_IS.place(View(), image), frame_of(AS_IT_IS, image)
            )
            np.testing.assert_array_equal(found.classes, numbers[1])


def test_a_mask_of_booleans_is_two_classes() -> None:
    mask = np.array([[True, False, True]])
    found = decoded(AS_IT_IS, Size(3, 1), "identity", mask, task(("none", "crack")))
    np.testing.assert_array_equal(found.classes, [[1, 0, 1]])


POLICY: list[tuple[Any, float]] = [
    ("identity", 1.0),
    ("hflip", 1.0),
    ({"crop": {"fraction": 0.6, "anchor": "top_left"}}, 2.0),
    ({"shift": [5, -3]}, 1.0),
    ({"rotate": 12}, 0.3),
]
FORMS = {
    "as it is": AS_IT_IS,
    "enlarged": Preprocessing(Size(24, 20), Resize.EXACT),
    "letterbox": Preprocessing(Size(24, 24), Resize.LETTERBOX),
}
IMAGE = Size(31, 23)


def drawn(prep: Preprocessing, index: int, source: np.random.Generator, share: float) -> tuple[Any, Numbers, float]:
    """A view, and a model's noisy classes for it: in stripes, some cells of no class."""
    spec, weight = POLICY[index]
    height, width = prep.place(read_view(spec), IMAGE).tensor[::-1]
    numbers = np.arange(width) * 3 // width * np.ones((height, 1), int)
    random = source.choice([0, 1, 2, NO_CLASS], (height, width))
    return spec, np.where(source.random((height, width)) < share, random, numbers), weight


@pytest.mark.parametrize("prep", FORMS.values(), ids=FORMS)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.02, 0.4, 1]), done=st.integers(1, len(POLICY)))
def test_no_more_pixels_change_than_were_undecided(prep: Preprocessing, seed: int, share: float, done: int) -> None:
    """At the image's own size, with views that show only a part, for any classes that follow."""
    source, frame = np.random.default_rng(seed), frame_of(prep, IMAGE)
    ran = [drawn(prep, index, source, share) for index in range(done)]
    rest = [(prep.place(read_view(spec), IMAGE), weight) for spec, weight in POLICY[done:]]
    now = accumulated(prep, IMAGE, ran)
    undecided = now.undecided(rest)
    mask = task().result(now.result(), [], frame, ResponseSpec()).mask
    for number in (0, 2, NO_CLASS, None):
        follows = [drawn(prep, index, source, 1) for index in range(done, len(POLICY))]
        if number is not None:
            follows = [(spec, np.full_like(numbers, number), weight) for spec, numbers, weight in follows]
        changed = mask != result_of(prep, IMAGE, ran + follows).mask
        assert changed.mean() <= undecided + 1e-9


@given(st.integers(0, 2**32 - 1), st.permutations(range(len(POLICY))))
def test_order_does_not_matter(seed: int, order: list[int]) -> None:
    source = np.random.default_rng(seed)
    views = [drawn(AS_IT_IS, index, source, 0.7) for index in range(len(POLICY))]
    straight, other = (accumulated(AS_IT_IS, IMAGE, found) for found in (views, [views[i] for i in order]))
    np.testing.assert_allclose(straight.result().scores, other.result().scores, atol=1e-5)


weights = st.one_of(st.floats(0.0625, 4, width=32), st.tuples(*[st.floats(0, 2, width=32)] * 3))


@given(st.lists(st.tuples(weights, st.booleans()), min_size=1, max_size=5), st.booleans(), st.integers(0, 2**32 - 1))
def test_votes_are_those_of_maps_of_votes(views: list[tuple[Any, bool]], in_parts: bool, seed: int) -> None:
    """Whatever the weights, coverages and parts."""
    source = np.random.default_rng(seed)
    votes, maps = VoteAccumulator(3), ScoreAccumulator(MERGES["vote"], CLASS_KINDS["probabilities"])
    whole, by_class = Size(7, 5), any(isinstance(weight, tuple) for weight, _ in views)
    for weight, is_covered in views:
        size = (3, 4) if in_parts else (5, 7)
        classes = source.integers(0, 4 if is_covered else 3, size).astype(np.uint16)
        coverage = (source.random(size) * (classes < 3)).astype(np.float32) if is_covered else None
        each = (classes == np.arange(3).reshape(-1, 1, 1)).astype(np.float32)
        if in_parts:
            corner = int(source.integers(4)), int(source.integers(3))
            votes.add_part(classes, weight, coverage, corner, whole)
            maps.add_part(each, weight, coverage, corner, whole)
        else:
            votes.add(classes, weight, coverage)
            maps.add(each, weight, coverage)
    np.testing.assert_allclose(votes.result(), maps.result(), atol=1e-6)
    if not by_class:
        for one, other in zip(votes.bounds(np.float32(0.5)), maps.bounds(np.float32(0.5)), strict=True):
            np.testing.assert_allclose(*np.broadcast_arrays(one, other), atol=1e-6)


def test_views_that_agree_leave_nothing_undecided() -> None:
    numbers = np.zeros((4, 6), int)
    now = accumulated(AS_IT_IS, Size(6, 4), [("identity", numbers, 1.0), ("hflip", numbers, 1.0)])
    assert now.undecided([(AS_IT_IS.place(read_view("vflip"), Size(6, 4)), 1.0)]) == 0


def test_an_image_without_a_vote_is_open_and_has_no_class() -> None:
    views = [("identity", np.full((4, 6), NO_CLASS), 1.0)]
    now = accumulated(AS_IT_IS, Size(6, 4), views)
    assert now.undecided([(AS_IT_IS.place(read_view("hflip"), Size(6, 4)), 0.1)]) == 1
    assert task().confidence(now.result()) == 0
    result = result_of(AS_IT_IS, Size(6, 4), views)
    np.testing.assert_array_equal(result.mask, NO_CLASS)
    np.testing.assert_array_equal(result.area, 0)
    assert rendered(result).lines == []


# ---- class numbers ----


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_numbers_of_labels_are_classes_and_others_are_known_by_name(labels: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(-2, 300, (4, 4))
    classes, unknown = read_classes(numbers, labels)
    known = (numbers >= 0) & (numbers < labels)
    np.testing.assert_array_equal(classes, np.where(known, numbers, labels))
    others = set(numbers[~known].tolist()) - {NO_CLASS}
    assert (unknown in others) if others else unknown is None


def test_small_types_hold_fewer_numbers_than_labels() -> None:
    classes, unknown = read_classes(np.array([[-1, 100]], np.int8), 200)
    np.testing.assert_array_equal(classes, [[200, 100]])
    assert unknown == -1


def test_255_is_a_class_where_labels_has_it() -> None:
    labels = [f"c{number}" for number in range(256)]
    found = decoded(AS_IT_IS, Size(2, 1), "identity", np.array([[255, 0]], np.uint8), task(labels))
    assert found.coverage is None
    np.testing.assert_array_equal(found.classes, [[255, 0]])


def test_255_is_no_number_without_a_label() -> None:
    assert read_classes(np.array([[0, 255]]), 3)[1] is None
    assert read_classes(np.array([[0, 255, 256]]), 3)[1] == 256
    assert read_classes(np.array([[0, 255]]), 255)[1] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_unsound(bad: float) -> None:
    numbers = np.zeros((2, 3), np.float32)
    assert task().is_sound(decoded(AS_IT_IS, Size(3, 2), "identity", numbers))
    numbers[1, 1] = bad
    numbers[0, 0] = 300  # a number without a label before it hides nothing
    for spec in ("identity", {"rotate": 10}):
        assert not task().is_sound(decoded(AS_IT_IS, Size(3, 2), spec, numbers))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (3, "the class number 3, but labels has 3 names, for 0 to 2; give labels a name for each number"),
        (-1, "the class number -1, but labels has 3 names"),
        (254, "the class number 254"),
        (0.5, "gives 0.5, which is no class number; .* output.kind: logits or probabilities, output.multilabel: true"),
    ],
)
@pytest.mark.parametrize("spec", ["identity", {"rotate": 10}])
def test_an_answer_with_another_number_is_refused_naming_it(number: float, words: str, spec: Any) -> None:
    numbers = np.zeros((2, 3))
    assert task().remarks(decoded(AS_IT_IS, Size(3, 2), spec, numbers)) == ()
    numbers[1, 2] = number
    (remark,) = task().remarks(decoded(AS_IT_IS, Size(3, 2), spec, numbers))
    assert remark.check == "maps.classes"
    assert remark.refuses
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(remark.sentence)


def findings(*maps: Numbers, labels: Sequence[str] = LABELS) -> Sequence[str]:
    runs = [CardRun("photo", {"maps": numbers[None]}, size_of(numbers)) for numbers in maps]
    return [finding.sentence for finding in task(labels).findings(runs)]


def test_numbers_that_begin_with_1_need_a_name_for_0() -> None:
    ones, mixed = np.ones((4, 4), int), np.array([[1, 2], [3, 3]])
    assert findings(ones) == []
    (sentence,) = findings(ones, mixed)
    assert sentence.endswith("its numbers begin with 1: put a name for 0 before the others")
    (sentence,) = findings(0 * ones, mixed)
    assert sentence.endswith("also for the background")


def test_a_number_that_is_not_whole_is_named_first() -> None:
    (sentence,) = findings(np.full((4, 4), 9.0), np.full((4, 4), 0.25))
    assert "gives 0.25, which is no class number" in sentence
    assert findings(np.full((4, 4), np.nan)) == []  # another check's


# ---- what is stated ----


@pytest.mark.parametrize(
    ("shape", "layout", "words"),
    [
        (
            (None, 3, None, None),
            "NCHW",
            r"\[N, h, w\] or \[N, 1, h, w\]; the model gives \[any, 3, any, any\]; for sco",
        ),
        ((None, 5, 7, 1), "NCHW", "set output.layout: NHWC"),
        ((None, 1, 5, 7), "NHWC", "set output.layout: NCHW"),
        ((None, 5), "NCHW", r"the model gives \[any, 5\]"),
    ],
)
def test_outputs_of_another_shape_are_refused(shape: tuple[int | None, ...], layout: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task(shape=shape, layout=layout)


def test_a_run_is_held_against_the_shape_too() -> None:
    segmentation = task(shape=(None, None, None, None))
    segmentation.check({"maps": np.zeros((2, 1, 5, 7))}, Size(7, 5))
    with pytest.raises(ConfigError, match=r"gives \[2, 3, 5, 7\]"):
        segmentation.check({"maps": np.zeros((2, 3, 5, 7))}, Size(7, 5))


@pytest.mark.parametrize("shape", [(None, None, None), (None, 1, None, None)])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_maps_of_classes_stated_as_scores_are_refused_with_the_right_kind(shape: Any, kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"needs an output maps of shape \[N, 3, h, w\]; .* set output.kind: classes"):
        Segmentation(LABELS, MapsOutput(kind), {"maps": shape})


def test_classes_are_merged_by_vote_alone_and_by_no_graph() -> None:
    assert task().merges == ("vote",)
    assert task().sums("vote", ResponseSpec()) is None
    task().check_bounded("vote", [1.0])
    with pytest.raises(InvalidInput, match="weights by class"):
        task().check_bounded("vote", [(1.0, 2.0, 3.0)])


def test_labels_that_overlap_have_no_class_numbers() -> None:
    with pytest.raises(ValueError, match="kind: classes gives each pixel one class; leave multilabel out"):
        MapsOutput("classes", multilabel=True)


def test_memory_is_counted_as_for_scores_with_a_copy_of_what_is_enlarged() -> None:
    plain = AS_IT_IS.place(View(), IMAGE)
    scores = Segmentation(LABELS, MapsOutput("logits"), {"maps": (None, 3, None, None)})
    for include in ((), ("agreement",)):
        wanted = ResponseSpec(frozenset(include))
        assert task().merged_bytes(plain, wanted) == scores.merged_bytes(plain, wanted) + 4 * 3 * IMAGE.area
    assert task().view_result_bytes(plain) == scores.view_result_bytes(plain)


# ---- answers ----


def picture(text: str) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


GAP = np.array([[0, 1, 2, 255], [1, 1, 255, 255]])


def test_pixels_of_no_class_are_255_in_pictures_and_in_no_area() -> None:
    everything = ["agreement", "uncertainty", "probabilities", "views"]
    result = result_of(AS_IT_IS, Size(4, 2), [("identity", GAP, 1.0)], everything)
    answer = rendered(result, ResponseSpec(frozenset(everything)))
    np.testing.assert_array_equal(picture(answer.prediction["mask"]), GAP)
    assert answer.prediction["area"] == {"ground": 1, "tree": 3, "sky": 1}
    colors = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.prediction["mask"]))).convert("RGB"))
    np.testing.assert_array_equal(colors[GAP == NO_CLASS], 255)
    np.testing.assert_array_equal(picture(answer.prediction["agreement"]), np.where(GAP == NO_CLASS, 0, 255))
    np.testing.assert_array_equal(picture(answer.prediction["probabilities"]["tree"]), (GAP == 1) * 65535)
    assert answer.views == [{"agreement": 1.0}]
    assert answer.uncertainty["agreement_by_class"] == {"ground": 1, "tree": 1, "sky": 1}
    assert answer.lines == ["tree 37.5%", "ground 12.5%", "sky 12.5%"]
    json.dumps([answer.prediction, answer.uncertainty], allow_nan=False)


def test_pixels_of_no_class_are_painted_as_they_are() -> None:
    pixels = noise(Size(4, 2))
    painted = paint(result_of(AS_IT_IS, Size(4, 2), [("identity", GAP, 1.0)]), pixels)
    np.testing.assert_array_equal((painted != pixels).any(axis=2), (GAP == 1) | (GAP == 2))


def test_a_pixel_between_cells_takes_the_nearer_one_s_lack_of_a_class() -> None:
    """At the border the image's pixels are divided in the middle between the cells' centres."""
    prep = Preprocessing(Size(4, 2), Resize.EXACT)
    mask = result_of(prep, Size(40, 20), [("identity", GAP, 1.0)]).mask
    np.testing.assert_array_equal(mask[2, 25:29], 2)
    np.testing.assert_array_equal(mask[2, 31:], NO_CLASS)
    result = result_of(prep, Size(40, 20), [("identity", GAP, 1.0)], ["agreement"])
    assert 0 < result.agreement[mask != NO_CLASS].min() < 1  # near the border between classes
    np.testing.assert_array_equal(result.agreement[mask == NO_CLASS], 0)


def test_votes_and_agreement_of_views_that_differ() -> None:
    first, second = np.array([[0, 0, 2, 255]]), np.array([[0, 1, 255, 1]])
    views = [("identity", first, 1.0), ("identity", second, 1.0), ("hflip", first[:, ::-1], 1.0)]
    result = result_of(AS_IT_IS, Size(4, 1), views, ["agreement", "probabilities", "views"])
    np.testing.assert_array_equal(result.mask, [[0, 0, 2, 1]])
    np.testing.assert_allclose(result.agreement, [[1, 2 / 3, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(result.probabilities[1], [[0, 1 / 3, 0, 1]], atol=1e-6)
    assert result.view_agreements == pytest.approx([1, 2 / 3, 1])


@pytest.mark.parametrize("classes", [256, 300])
def test_masks_of_many_classes_hold_the_highest_number(classes: int) -> None:
    labels = [f"c{number}" for number in range(classes)]
    segmentation, frame = task(labels), frame_of(AS_IT_IS, Size(4, 3))
    accumulator = segmentation.accumulator("vote", ResponseSpec(), frame)
    found = decoded(AS_IT_IS, Size(4, 3), "identity", np.full((3, 4), classes - 1), segmentation)
    accumulator.add(found, 1.0)
    result = segmentation.result(accumulator.result(), [segmentation.view_result(found)], frame, ResponseSpec())
    np.testing.assert_array_equal(result.mask, classes - 1)
    assert result.area[-1] == 12
    assert result.view_agreements == [1]
