"""Segmentation with `kind: queries`: the maps of classes equal those of transformers' own post-processing."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.checks import CardRun
from tta_server.tasks.masks.checks import query_findings
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.queries import query_maps
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.merging import MERGES
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

Array = NDArray[Any]
LABELS = ("ground", "tree", "sky")
SCORES, MASKS = "class_queries_logits", "masks_queries_logits"
FREE: dict[str, tuple[int | None, ...]] = {SCORES: (None, None, 4), MASKS: (None, None, None, None)}
IMAGE = Size(20, 12)
PREP = Preprocessing(IMAGE, Resize.EXACT)
FRAME = ImageFrame(IMAGE, PREP.place(View(), IMAGE))


def task(outputs: Any = FREE, **more: Any) -> Any:
    return Segmentation(LABELS, MapsOutput("queries", **more), outputs)


def reference(scores: Array, masks: Array) -> Array:
    """Of a batch, as `post_process_semantic_segmentation` of transformers has it, before its argmax."""
    scores, masks = scores.astype(np.float64), masks.astype(np.float64)
    classes = np.exp(scores - scores.max(axis=-1, keepdims=True))
    classes /= classes.sum(axis=-1, keepdims=True)
    return np.asarray(np.einsum("bqc,bqhw->bchw", classes[..., :-1], 1 / (1 + np.exp(-masks))))


def random(seed: int, queries: int = 5, labels: int = 3, spread: float = 4.0) -> tuple[Array, Array]:
    source = np.random.default_rng(seed)
    scores = source.normal(size=(2, queries, labels + 1)) * spread
    return scores.astype(np.float32), (source.normal(size=(2, queries, 6, 10)) * spread).astype(np.float32)


# ---- laws ----


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 6), st.sampled_from([0.5, 4.0, 12.0]))
def test_maps_are_the_reference_s_made_to_sum_to_1(seed: int, queries: int, labels: int, spread: float) -> None:
    scores, masks = random(seed, queries, labels, spread)
    expected = reference(scores, masks)
    for row in range(2):
        found = query_maps(scores[row], masks[row])
        np.testing.assert_allclose(found, expected[row] / expected[row].sum(axis=0), atol=1e-5)
        top = np.sort(expected[row] / expected[row].sum(axis=0), axis=0)
        clear = top[-1] - (top[-2] if labels > 1 else 0) > 1e-4
        np.testing.assert_array_equal(found.argmax(axis=0)[clear], expected[row].argmax(axis=0)[clear])


@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_the_order_of_queries_does_not_matter(seed: int, order: list[int]) -> None:
    scores, masks = random(seed)
    np.testing.assert_allclose(
        query_maps(scores[0], masks[0]), query_maps(scores[0][order], masks[0][order]), atol=1e-5
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from(["hflip", "vflip", {"rot90": 2}]))
def test_undoing_a_flip_is_exact(seed: int, spec: Any) -> None:
    scores, masks = random(seed)
    turned = {"hflip": masks[..., ::-1], "vflip": masks[..., ::-1, :]}.get(str(spec), masks[..., ::-1, ::-1])
    plain = task().decode({SCORES: scores, MASKS: masks}, 0, PREP.place(View(), IMAGE), FRAME)
    view = task().decode({SCORES: scores, MASKS: turned}, 0, PREP.place(read_view(spec), IMAGE), FRAME)
    np.testing.assert_allclose(view.scores, plain.scores, atol=1e-6)
    np.testing.assert_array_equal(plain.scores, query_maps(scores[0], masks[0]))


@pytest.mark.parametrize("merge", MERGES)
@given(st.integers(0, 2**32 - 1))
def test_one_view_gives_the_classes_of_the_reference(merge: str, seed: int) -> None:
    scores, masks = random(seed)
    accumulator = task().accumulator(merge, ResponseSpec(), FRAME)
    accumulator.add(task().decode({SCORES: scores, MASKS: masks}, 1, PREP.place(View(), IMAGE), FRAME), 1.0)
    expected = reference(scores, masks)[1]
    shares = np.sort(expected / expected.sum(axis=0), axis=0)
    clear = shares[-1] - shares[-2] > 1e-4
    np.testing.assert_array_equal(accumulator.result().scores.argmax(axis=0)[clear], expected.argmax(axis=0)[clear])


# ---- examples ----


def test_an_example_by_hand() -> None:
    """One query is class 0 with 3/4 and none with 1/4, on a mask of 1/2; the other class 1 on a mask of 1/4."""
    far = -100.0
    scores = np.array([[np.log(3), far, 0.0], [far, 0.0, far]])
    masks = np.array([0.0, np.log(1 / 3)]).reshape(2, 1, 1)
    np.testing.assert_allclose(query_maps(scores, masks).ravel(), [0.6, 0.4], atol=1e-6)  # of 0.375 and 0.25


def test_masks_far_below_0_still_say_which_class_is_likelier() -> None:
    scores = np.array([[9.0, 0, 0], [0, 9.0, 0]])
    masks = np.array([-60.0, -58.0]).reshape(2, 1, 1)
    assert query_maps(scores, masks).argmax(axis=0) == 1


def test_half_precision_and_infinite_masks() -> None:
    scores = np.zeros((2, 4), np.float16)
    masks = np.array([np.inf, -np.inf], np.float16).reshape(2, 1, 1)
    np.testing.assert_allclose(query_maps(scores, masks), 1 / 3, atol=1e-3)


@pytest.mark.parametrize(("name", "bad"), [(SCORES, np.nan), (SCORES, np.inf), (MASKS, np.nan)])
def test_nan_and_infinity_are_unsound(name: str, bad: float) -> None:
    scores, masks = random(0)
    outputs = {SCORES: scores, MASKS: masks}
    outputs[name][0].flat[7] = bad
    first, second = (task().decode(outputs, row, FRAME.plain, FRAME) for row in range(2))
    assert not task().is_sound(first)
    assert task().is_sound(second)


def test_every_merge_of_classes_is_there_and_no_graph_sums_them() -> None:
    assert task().merges == tuple(MERGES)
    assert task().reads == (SCORES, MASKS)
    assert [task().sums(merge, ResponseSpec()) for merge in MERGES] == [None] * len(MERGES)


# ---- what is stated ----


def test_outputs_of_other_names_are_named() -> None:
    outputs = {"masks": (None, 9, None, None), "logits": (None, 9, 4), "more": (None, 1)}
    assert task(outputs, scores="logits", masks="masks").reads == ("logits", "masks")
    with pytest.raises(
        ConfigError, match=r"output\.scores is 'class_queries_logits'; the model file has masks, logits,"
    ):
        task(outputs)
    with pytest.raises(ConfigError, match=r"output\.masks is 'masks_queries_logits'; the model file has"):
        task(outputs, scores="logits")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({SCORES: (None, 9, 3)}, r"shape \[N, Q, 4\], the last for no object; .* \[any, 9, 3\]; labels leaves the one"),
        ({SCORES: (None, 9, 7)}, r"shape \[N, Q, 4\], the last for no object; the model gives \[any, 9, 7\]$"),
        ({SCORES: (None, 4)}, r"the model gives \[any, 4\]$"),
        ({MASKS: (None, 9, None)}, rf"needs an output {MASKS} of shape \[N, Q, h, w\]"),
        ({SCORES: (None, 9, 4), MASKS: (None, 8, 6, 10)}, r"as many masks as class scores; .*\[any, 8, 6, 10\]"),
    ],
)
def test_outputs_of_other_shapes_are_refused(outputs: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task({**FREE, **outputs})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "y"}, "kind: queries reads two outputs; set scores and masks instead of name"),
        ({"layout": "NHWC"}, "kind: queries takes masks of shape"),
        ({"multilabel": True}, "kind: queries gives each pixel one class; leave multilabel out"),
    ],
)
def test_keys_that_do_not_belong_to_queries_are_refused(keys: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MapsOutput("queries", **keys)


@pytest.mark.parametrize("keys", [{"scores": "y"}, {"masks": "y"}])
def test_keys_of_queries_are_refused_elsewhere(keys: Any) -> None:
    with pytest.raises(ValueError, match="name the outputs of kind: queries; for kind: logits set name"):
        MapsOutput("logits", **keys)


# ---- checks ----


def test_queries_pass_the_checks() -> None:
    scores, masks = random(3)
    runs = [CardRun("photo", {SCORES: scores[:1], MASKS: masks[:1]}, IMAGE)]
    assert list(task().findings(runs)) == []


def test_a_softmax_inside_is_found() -> None:
    scores, masks = random(3)
    p = np.exp(scores[0]) / np.exp(scores[0]).sum(axis=1, keepdims=True)
    (found,) = query_findings([p], [masks[0]])
    assert (found.check, found.refuses) == ("scores.logits", True)
    assert "class scores sum to 1, as after a softmax" in found.sentence


def test_a_sigmoid_inside_is_found() -> None:
    scores, masks = random(3)
    (found,) = query_findings([scores[0]], [1 / (1 + np.exp(-masks[0]))])
    assert (found.check, found.refuses) == ("scores.logits", True)
    assert "masks lie in [0, 1], as after a sigmoid" in found.sentence


def test_queries_of_one_class_answer_nothing_else() -> None:
    scores, masks = random(3, labels=1)
    (found,) = query_findings([scores[0]], [masks[0]])
    assert (found.check, found.refuses) == ("scores.one_class", True)


def test_masks_of_zeros_are_right() -> None:
    """A network whose last layer is not trained yet."""
    scores, masks = random(3)
    assert list(query_findings([scores[0]], [0 * masks[0]])) == []


@pytest.mark.parametrize("name", [SCORES, MASKS])
def test_whole_numbers_are_no_logits(name: str) -> None:
    scores, masks = random(3)
    outputs = {SCORES: scores, MASKS: masks}
    outputs[name] = outputs[name].astype(np.int64)
    (found,) = query_findings(outputs[SCORES], outputs[MASKS])
    assert found.check == "scores.type"
