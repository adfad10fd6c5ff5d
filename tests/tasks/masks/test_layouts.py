"""Score maps [N, h, w, C], and [N, h, w] of one label, give what [N, C, h, w] gives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.masks.test_maps import EXACT_VIEWS, SAMPLED_VIEWS
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.checks import CardRun
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.merging import LABEL_MERGES
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("ground", "tree", "sky")
AS_IT_IS = Preprocessing()


def task(labels: Any, shape: tuple[int | None, ...], **more: Any) -> Segmentation:
    return Segmentation(labels, MapsOutput(**{"kind": "logits", **more}), {"maps": shape})


def decoded(segmentation: Segmentation, maps: np.ndarray, spec: Any, image: Size) -> Any:
    frame = ImageFrame(image, AS_IT_IS.place(View(), image))
    segmentation.check({"maps": maps}, image)
    return segmentation.decode({"maps": maps}, 1, AS_IT_IS.place(read_view(spec), image), frame)


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.coverage, other.coverage)
    assert (one.grid, one.corner) == (other.grid, other.corner)


views = st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS])
images = st.builds(Size, st.integers(20, 50), st.integers(20, 50))


@given(views, images, st.integers(0, 2**32 - 1), st.booleans())
def test_maps_with_channels_last_are_those_with_channels_first(
    spec: Any, image: Size, seed: int, multilabel: bool
) -> None:
    width, height = AS_IT_IS.place(read_view(spec), image).tensor
    maps = np.random.default_rng(seed).normal(size=(2, 3, height, width)).astype(np.float32)
    first = task(LABELS, (None, 3, None, None), multilabel=multilabel)
    last = task(LABELS, (None, None, None, 3), multilabel=multilabel, layout="NHWC")
    same(decoded(first, maps, spec, image), decoded(last, maps.transpose(0, 2, 3, 1), spec, image))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@given(views, images, st.integers(0, 2**32 - 1))
def test_maps_of_one_label_need_no_axis_for_it(layout: Any, spec: Any, image: Size, seed: int) -> None:
    width, height = AS_IT_IS.place(read_view(spec), image).tensor
    maps = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    with_axis = task(["crack"], (None, 1, None, None), multilabel=True)
    without = task(["crack"], (None, None, None), multilabel=True, layout=layout)
    same(decoded(with_axis, maps[:, None], spec, image), decoded(without, maps, spec, image))


def test_graphs_sum_only_maps_with_channels_first() -> None:
    for merge in LABEL_MERGES:
        wanted = ResponseSpec()
        first = task(LABELS, (None, 3, None, None), multilabel=True).sums(merge, wanted)
        assert (first is None) == (merge == "max")
        assert task(LABELS, (None, None, None, 3), multilabel=True, layout="NHWC").sums(merge, wanted) is None
        assert task(["crack"], (None, None, None), multilabel=True).sums(merge, wanted) is None


@pytest.mark.parametrize(
    ("shape", "layout", "words"),
    [
        ((None, 8, 8, 3), "NCHW", r"shape \[N, 3, h, w\]; the model gives \[any, 8, 8, 3\]; set output.layout: NHWC$"),
        ((None, 3, 8, 8), "NHWC", r"shape \[N, h, w, 3\]; the model gives \[any, 3, 8, 8\]; set output.layout: NCHW$"),
        ((None, 4, 8, 8), "NCHW", r"the model gives \[any, 4, 8, 8\]$"),
        ((None, 8, 8), "NCHW", "set output.kind: classes; for the mask of one label give labels one name and set"),
        ((None, 1, 8, 8), "NCHW", "set output.kind: classes; for the mask of one label"),
        ((None, 8, 8, 1), "NHWC", "set output.kind: classes; for the mask of one label"),
    ],
)
def test_outputs_of_another_shape_are_refused_with_what_would_fit(
    shape: tuple[int | None, ...], layout: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        task(LABELS, shape, layout=layout)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_one_map_of_whole_numbers_is_no_map_of_scores(dtype: str) -> None:
    segmentation = task(["crack"], (None, None, None), multilabel=True)
    (found,) = segmentation.findings([CardRun("photo", {"maps": np.ones((1, 8, 8), dtype)}, Size(8, 8))])
    assert (found.check, found.refuses) == ("scores.type", True)
    assert f"one map of type {dtype}: for class numbers set output.kind: classes" in found.sentence


def test_several_maps_of_whole_numbers_are_quantised_scores() -> None:
    segmentation = task(LABELS, (None, 3, None, None))
    (found,) = segmentation.findings([CardRun("photo", {"maps": np.ones((1, 3, 8, 8), np.int8)}, Size(8, 8))])
    assert "dequantised" in found.sentence


def test_a_map_of_one_class_is_refused_in_each_form() -> None:
    segmentation = task(["crack"], (None, None, None))
    (found,) = segmentation.findings([CardRun("photo", {"maps": np.ones((1, 8, 8), np.float32)}, Size(8, 8))])
    assert found.check == "scores.one_class"
