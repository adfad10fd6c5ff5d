"""The JSON and the tensors of one result agree; what is rendered at once, and on which thread."""

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rendered import rendered
from tests.tasks.conftest import Asked, picture
from tta_server.tasks import ResponseFormat, ResponseSpec, Result
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.tasks.embedding import EmbeddingResult
from tta_server.tasks.masks.results import MultilabelSegmentationResult, SegmentationResult
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.regression import RegressionResult
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.render.rendering import FORMATS, RENDERERS, renderer_of
from tta_server.tasks.render.scores import ClassificationRenderer
from tta_server.tasks.scores.results import ClassificationResult, MultilabelResult
from tta_server.views.geometry import Size

# ---- the JSON and the tensors of one result agree ----


def random_result(kind: type[Result], source: np.random.Generator) -> Any:
    """Any result of that type, of an image of 9x7 pixels."""
    size, labels, n = Size(9, 7), ("a", "b", "c"), int(source.integers(0, 5))
    shape = (size.height, size.width)
    scores = {
        "labels": labels,
        "probabilities": source.random(3, np.float32),
        "view_probabilities": source.random((n, 3), np.float32),
        "agreement": 0.5,
    }
    masks = {"labels": labels, "area": source.integers(0, 63, 3), "view_agreements": [], "probability_maps": None}
    places = {"labels": labels, "size": size}
    fields: dict[type[Result], Callable[[], dict[str, Any]]] = {
        ClassificationResult: lambda: scores,
        MultilabelResult: lambda: {**scores, "threshold": float(source.random())},
        RegressionResult: lambda: {
            "labels": labels,
            "values": source.normal(0, 9, 3),
            "view_values": source.random((n, 3)),
        },
        EmbeddingResult: lambda: {"vector": source.random(4, np.float32), "view_similarities": source.random(n)},
        SegmentationResult: lambda: {
            **masks,
            "mask": source.integers(0, 3, shape, np.uint8),
            "agreement": source.random(shape, np.float32),
        },
        MultilabelSegmentationResult: lambda: {
            **masks,
            "masks": source.random((3, *shape)) < 0.5,
            "agreement": source.random(shape, np.float32),
        },
        DetectionResult: lambda: {
            **places,
            "boxes": source.random((n, 4), np.float32) * 7,
            "scores": source.random(n, np.float32),
            "class_ids": source.integers(0, 3, n),
            "found_by": source.integers(1, 9, n),
            "visible_in": source.integers(1, 9, n),
            "spread": source.random(n, np.float32),
            "view_boxes": [],
        },
        KeypointsResult: lambda: {
            **places,
            "keypoints": source.random((3, 2)) * 7,
            "confidence": source.random(3),
            "visible": source.random(3) < 0.5,
            "spread": source.random(3),
            "visible_in": source.integers(1, 9, 3),
            "view_keypoints": source.random((n, 3, 3)),
        },
    }
    return kind(**fields[kind]())


def json_as_arrays(listed: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A JSON prediction of any task in the terms of its tensors."""
    if "boxes" in listed:
        boxes = listed["boxes"]
        keys = {"SCORES": "score", "LABELS": "label", "INDICES": "index", "VIEWS": "views", "OF": "of"}
        columns = {name: [box[key] for box in boxes] for name, key in keys.items()}
        corners = np.reshape([box["box"] for box in boxes], (-1, 4))
        return {"COUNT": [len(boxes)], "BOXES": corners, "SPREAD": [box["spread"] for box in boxes], **columns}
    if "keypoints" in listed:
        points = listed["keypoints"]
        keys = {"CONFIDENCE": "confidence", "VISIBLE": "visible", "SPREAD": "spread", "VIEWS": "views"}
        columns = {name: [point[key] for point in points] for name, key in keys.items()}
        return {"KEYPOINTS": [[point["x"], point["y"]] for point in points], **columns}
    if "values" in listed:
        return {"VALUES": list(listed["values"].values())}
    if "embedding" in listed:
        return {"EMBEDDING": listed["embedding"]}
    if "mask" in listed:
        return {"MASK": np.asarray(from_base64(listed["mask"])), "AREA": list(listed["area"].values())}
    if "masks" in listed:
        masks = [np.asarray(from_base64(mask)) for mask in listed["masks"].values()]
        return {"MASKS": masks, "AREA": list(listed["area"].values())}
    if "labels" in listed:
        present = [label in listed["labels"] for label in labels]
        return {"PROBABILITIES": listed["probabilities"], "PRESENT": present}
    top = listed["top"][0]
    return {"PROBABILITIES": listed["probabilities"], "LABEL": [top["label"]], "INDEX": [top["index"]]}


@pytest.mark.parametrize("kind", RENDERERS, ids=lambda kind: kind.__name__)
@given(seed=st.integers(0, 2**32 - 1))
def test_json_and_tensors_of_any_result_agree(kind: type[Result], seed: int) -> None:
    result = random_result(kind, np.random.default_rng(seed))
    listed = rendered(result, ResponseSpec(frozenset(["probabilities"]))).prediction
    found = renderer_of(result).tensors(result, frozenset())
    expected = json_as_arrays(json.loads(json.dumps(listed, allow_nan=False)), getattr(result, "labels", ()))
    assert expected.keys() == found.keys()
    for name, array in found.items():
        if array.dtype == np.object_:
            assert array.tolist() == expected[name]
        else:
            np.testing.assert_allclose(array.astype(np.float64), np.array(expected[name], np.float64), atol=6e-4)


# ---- what is rendered at once, and on which thread ----


class Watched(ClassificationRenderer):
    """Notes the thread of each rendering."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def prediction(self, result: ClassificationResult, spec: ResponseSpec) -> dict[str, Any]:
        self.threads.append(threading.current_thread())
        return super().prediction(result, spec)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    renderer = Watched()
    monkeypatch.setitem(RENDERERS, ClassificationResult, renderer)
    return renderer


def test_json_is_rendered_on_a_slot_s_thread(asked: Callable[[str], Asked], watched: Watched) -> None:
    model = asked("classification")
    watched.threads.clear()  # warming renders too
    answer = model.answer(picture(""), format=ResponseFormat.JSON)
    (thread,) = watched.threads
    assert thread is not threading.current_thread()
    assert answer.prediction["top"]
    assert answer.result is None
    assert watched.threads == [thread]


def test_arrays_are_rendered_once_on_the_reader_s_thread(asked: Callable[[str], Asked], watched: Watched) -> None:
    model = asked("classification")
    watched.threads.clear()
    answer = model.answer(picture(""))
    assert answer.result.label
    assert not watched.threads
    assert answer.prediction is answer.prediction
    assert watched.threads == [threading.current_thread()]


def test_tensors_alone_need_no_json(asked: Callable[[str], Asked], watched: Watched) -> None:
    model = asked("classification")
    watched.threads.clear()
    answer = model.answer(picture(""), tensors=frozenset(["LABEL"]), include=frozenset(["views"]))
    assert answer.receipt.views[0]["label"] == answer.tensors["LABEL"][0]
    assert not watched.threads


def test_a_picture_alone_has_no_json(asked: Callable[[str], Asked]) -> None:
    model, image = asked("segmentation"), picture("")
    answer = model.answer(image, format=ResponseFormat.PNG)
    assert (answer.prediction, answer.result) == ({}, None)
    assert answer.picture == model.answer(image).picture


def test_every_format_has_a_rendering() -> None:
    assert set(FORMATS) == set(ResponseFormat)
