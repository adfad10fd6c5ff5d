"""The arrays that a Python program gets of each task, against values computed by hand."""

import math
import pickle

import numpy as np
import pytest

import tta_server
from tests.support.onnx_models import detector, write_model
from tests.tasks.boxes.test_detection_served import CONFIG as BRIGHT
from tests.tasks.boxes.test_detection_served import lit
from tests.tasks.test_every_task import LABELS, TINY
from tta_server.tasks import (
    ClassificationResult,
    DetectionResult,
    EmbeddingResult,
    KeypointsResult,
    MultilabelResult,
    MultilabelSegmentationResult,
    RegressionResult,
    SegmentationResult,
)
from tta_server.views.geometry import Size

MODELS = {**TINY, "detection": (detector(), BRIGHT)}
COLOR = np.zeros((8, 8, 3), np.uint8) + np.array([51, 102, 255], np.uint8)
"""Its channels have the means 0.2, 0.4 and 1, which the models of vectors give."""
LEVELS = np.array([0.2, 0.4, 1])
HALVES = np.zeros((6, 10, 3), np.uint8)
"""Red on the left, blue on the right."""
HALVES[:, :4, 0] = HALVES[:, 4:, 2] = 255


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """Loads each model once; an image and options -> the answer."""
    loaded = {}

    def predict(name, image, **options):
        if name not in loaded:
            folder = write_model(tmp_path_factory.mktemp("models") / name.replace(" ", "-"), *MODELS[name])
            loaded[name] = tta_server.load(folder, slots=1)
        return loaded[name].predict(image, **options)

    yield predict
    for model in loaded.values():
        model.close()


def test_classification(answer):
    result = answer("classification", COLOR, policy="hflip", include=["views"]).result
    assert isinstance(result, ClassificationResult)
    assert result.labels == tuple(LABELS)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities, LEVELS, atol=1e-6)
    assert (result.index, result.label) == (2, "blue")
    np.testing.assert_allclose(result.view_probabilities, [LEVELS, LEVELS], atol=1e-6)
    assert result.agreement == 1


def test_multilabel(answer):
    result = answer("multilabel", COLOR, policy="hflip", include=["agreement"]).result
    assert isinstance(result, MultilabelResult)
    np.testing.assert_allclose(result.probabilities, LEVELS, atol=1e-6)
    assert result.present.tolist() == [False, False, True]
    assert (result.threshold, result.agreement) == (0.5, 1)


def test_regression(answer):
    result = answer("regression", COLOR, policy="hflip", include=["views"]).result
    assert isinstance(result, RegressionResult)
    assert (result.labels, result.values.dtype) == (tuple(LABELS), np.float64)
    np.testing.assert_allclose(result.values, LEVELS, atol=1e-6)
    np.testing.assert_allclose(result.view_values, [LEVELS, LEVELS], atol=1e-6)
    counted = answer("logarithms", COLOR, policy="hflip").result
    np.testing.assert_allclose(counted.values, np.expm1(LEVELS), atol=1e-5)
    assert counted.view_values.shape == (0, 3)


def test_embedding(answer):
    result = answer("embedding", COLOR, policy="hflip", include=["views"]).result
    assert isinstance(result, EmbeddingResult)
    assert result.vector.dtype == np.float32
    np.testing.assert_allclose(result.vector, LEVELS / math.hypot(*LEVELS), atol=1e-6)
    np.testing.assert_allclose(result.view_similarities, [1, 1])


def test_segmentation(answer):
    result = answer("segmentation", HALVES, policy="hflip", include=["views", "agreement", "probabilities"]).result
    assert isinstance(result, SegmentationResult)
    assert result.mask.dtype == np.uint8
    np.testing.assert_array_equal(result.mask, np.repeat([[0] * 4 + [2] * 6], 6, axis=0))
    assert result.area.tolist() == [24, 0, 36]
    np.testing.assert_array_equal(result.agreement, np.ones((6, 10)))
    np.testing.assert_allclose(result.probabilities, HALVES.transpose(2, 0, 1) / 255, atol=1e-6)
    assert result.view_agreements == [1, 1]


def test_multilabel_segmentation(answer):
    result = answer("masks", HALVES, policy="hflip", include=["probabilities"]).result
    assert isinstance(result, MultilabelSegmentationResult)
    assert result.masks.dtype == np.bool_
    np.testing.assert_array_equal(result.masks, HALVES.transpose(2, 0, 1) == 255)
    assert result.area.tolist() == [24, 0, 36]
    np.testing.assert_allclose(result.probabilities, result.masks, atol=1e-6)


def test_detection(answer):
    """Two rectangles, whose brightness is their score."""
    image = lit(Size(45, 31), (0, (3, 4, 20, 12), 255), (2, (1, 2, 9, 9), 204))
    result = answer("detection", image, policy="hflip", include=["views"]).result
    assert isinstance(result, DetectionResult)
    assert (result.boxes.dtype, result.scores.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(result.boxes, [(3, 4, 20, 12), (1, 2, 9, 9)], atol=1e-4)
    np.testing.assert_allclose(result.scores, [1, 0.8], atol=1e-6)
    assert [result.labels[index] for index in result.class_ids] == ["red", "blue"]
    assert (result.found_by.tolist(), result.visible_in.tolist()) == ([2, 2], [2, 2])
    np.testing.assert_allclose(result.spread, [0, 0], atol=1e-3)
    assert result.size == Size(45, 31)
    assert [own.xyxy.shape for own in result.view_boxes] == [(2, 4), (2, 4)]


def test_keypoints(answer):
    """The model puts red at the level 0.2 of x and y, green at 0.4 and blue at 1, also in the mirror image."""
    image = np.zeros((100, 100, 3), np.uint8) + np.array([51, 102, 255], np.uint8)
    result = answer("points", image, policy="plain", include=["views"]).result
    assert isinstance(result, KeypointsResult)
    np.testing.assert_allclose(result.keypoints, [[20, 20], [40, 40], [100, 100]], atol=1e-3)
    assert (result.confidence.tolist(), result.visible.tolist()) == ([1, 1, 1], [True, True, True])
    assert (result.spread.tolist(), result.visible_in.tolist()) == ([0, 0, 0], [1, 1, 1])
    np.testing.assert_allclose(result.view_keypoints, [np.column_stack([result.keypoints, [1, 1, 1]])])
    assert result.size == Size(100, 100)


# ---- what is not included is not there ----


def test_maps_and_view_results_are_there_only_if_included(answer):
    result = answer("segmentation", HALVES, policy="hflip").result
    assert (result.probabilities, result.agreement, result.view_agreements) == (None, None, [])
    result = answer("classification", COLOR, policy="hflip").result
    assert (result.agreement, result.view_probabilities.shape) == (None, (0, 3))
    assert answer("detection", HALVES, policy="plain").result.view_boxes == []


@pytest.mark.parametrize("name", MODELS)
def test_uncertainty_is_that_of_the_receipt(answer, name):
    assert answer(name, HALVES, policy="hflip").result.uncertainty == {}
    included = answer(name, HALVES, policy="hflip", include=["uncertainty"])
    assert included.result.uncertainty
    assert included.receipt.to_dict()["uncertainty"] == included.result.uncertainty


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_may_be_pickled(answer, name):
    """For a pool of processes; before and after its JSON is rendered."""
    before = answer(name, HALVES, policy="hflip")
    copy = pickle.loads(pickle.dumps(before))
    assert copy.to_dict() == before.to_dict() == pickle.loads(pickle.dumps(before)).to_dict()
