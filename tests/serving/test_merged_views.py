"""Merging views of an image: what fails is a view's own error, and then nothing is merged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.graphed import toy
from tta_server.repository.model import Model
from tta_server.serving.image import ImageViews
from tta_server.serving.layout import make_layout
from tta_server.serving.merged_views import MergedViews
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks.sums import Sums
from tta_server.views.geometry import Size

SCORES = np.array([0.0, 1.0, 3.0], np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return toy(tmp_path, "graph")


def merged_views(model: Model, **options: Any) -> MergedViews:
    plan, size = make_plan(model, Options(**options)), Size(8, 8)
    views = ImageViews(plan, make_layout(plan, size), size)
    return MergedViews(views, plan.keeps_view_results)


def test_sums_count_as_the_views_that_they_are_of(model: Model) -> None:
    merged = merged_views(model)
    probabilities = np.exp(SCORES) / np.exp(SCORES).sum()
    assert merged.add_sums([(0, None), (1, None)], Sums(2 * probabilities, np.float32(2))) == {}
    assert merged.add([(2, SCORES)]) == {}
    np.testing.assert_allclose(merged.accumulator.result(), probabilities, rtol=1e-6)


def test_sums_that_can_not_be_added_are_the_error_of_each_view_and_add_nothing(model: Model) -> None:
    merged = merged_views(model)
    merged.add([(0, SCORES)])
    before = merged.accumulator.result()
    problems = merged.add_sums([(1, None), (3, None)], Sums(np.zeros(4), np.float32(2)))
    assert problems.keys() == {1, 3}
    assert {each.sentence for each in problems.values()} == {"the model's output for a view could not be merged"}
    np.testing.assert_array_equal(merged.accumulator.result(), before)


def test_a_prediction_that_can_not_be_added_is_its_own_error(model: Model) -> None:
    merged = merged_views(model)
    assert merged.add([(0, SCORES), (1, np.zeros(4, np.float32)), (2, SCORES)]).keys() == {1}


def test_results_of_views_are_kept_where_the_answer_needs_them(model: Model) -> None:
    keeping, other = merged_views(model, include=frozenset(["views"])), merged_views(model)
    for merged in (keeping, other):
        merged.add([(1, SCORES)])
    np.testing.assert_allclose(keeping.result_of(1), np.exp(SCORES) / np.exp(SCORES).sum(), rtol=1e-6)
    assert other.result_of(1) is None
    keeping.close()
    assert keeping.accumulator is keeping.result_of(1) is None
