"""Each task's tensors agree with its JSON, in the shapes and types that it states."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.onnx_models import regressor, write_model
from tests.support.patterns import noise
from tests.tasks.boxes.test_detection_served import lit
from tests.tasks.conftest import RECTANGLES, TOYS, Asked, picture
from tests.tasks.test_every_task import FIXED, config
from tta_server.api.oip.tensors import specs_of, write_tensors
from tta_server.serving.answer import Answer
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.shapes import fits
from tta_server.views.geometry import Size

toys = pytest.mark.parametrize("name", TOYS)


# ---- what every task promises ----


@toys
def test_tensors_are_what_is_stated(asked: Callable[[str], Asked], name: str) -> None:
    model = asked(name)
    specs = model.model.task.tensor_specs
    assert len({spec.name for spec in specs}) == len(specs)
    assert any(spec.usual for spec in specs)
    tensors = model.tensors(picture(name))
    for spec in specs:
        assert fits(tensors[spec.name].shape, spec.shape), spec.name
        kind = tensors[spec.name].dtype.kind
        assert np.can_cast(tensors[spec.name].dtype, spec.dtype, "same_kind"), spec.name
        assert kind in "biufO"
        assert kind != "f" or np.isfinite(tensors[spec.name]).all()


@toys
def test_each_tensor_may_be_requested_by_itself(asked: Callable[[str], Asked], name: str) -> None:
    model, image = asked(name), picture(name)
    whole = model.tensors(image)
    for spec in model.model.task.tensor_specs:
        np.testing.assert_array_equal(model.tensors(image, [spec.name])[spec.name], whole[spec.name])


@toys
def test_every_merge_answers_in_the_shapes_that_are_stated(asked: Callable[[str], Asked], name: str) -> None:
    model = asked(name)
    for merge in model.model.task.merges:
        tensors = model.tensors(picture(name), merge=merge)
        assert all(fits(tensors[spec.name].shape, spec.shape) for spec in model.model.task.tensor_specs)


@toys
def test_two_images_are_stacked(asked: Callable[[str], Asked], name: str) -> None:
    model = asked(name)
    specs = list(specs_of(model.model.task.tensor_specs).values())
    names = frozenset(spec.name for spec in specs[:-1])
    images = [picture(name), np.zeros_like(picture(name))]
    answers = [model.answer(image, tensors=names) for image in images]
    for tensor, spec in zip(write_tensors(specs, answers), specs, strict=True):
        assert tensor.array.dtype == spec.dtype
        assert fits(tensor.shape, (2, *spec.shape)), spec.name
        for row, answer in enumerate(answers):
            if spec.name != "RECEIPT":
                own = np.asarray(answer.tensors[spec.name], spec.dtype)
                np.testing.assert_array_equal(tensor.array[row, : len(own)], own)


@toys
def test_a_tensor_is_memory_of_its_own(asked: Callable[[str], Asked], name: str) -> None:
    model, image = asked(name), picture(name)
    before = model.tensors(image)
    kept = {key: array.copy() for key, array in before.items()}
    model.tensors(np.zeros_like(image))
    for key, array in before.items():
        np.testing.assert_array_equal(array, kept[key])


# ---- each against its own JSON ----


def test_classification(asked: Callable[[str], Asked]) -> None:
    for model, image in ((asked("classification"), picture("")), (asked("clothing"), noise(Size(90, 120)))):
        policy = None if model.name == "clothing" else "d4"
        listed = model.answer(image, include=frozenset(["probabilities"]), policy=policy).prediction
        found = model.tensors(image, policy=policy)
        assert found["PROBABILITIES"].tolist() == listed["probabilities"]
        assert found["LABEL"].tolist() == [listed["top"][0]["label"]]
        assert found["INDEX"].tolist() == [listed["top"][0]["index"]]


def test_multilabel(asked: Callable[[str], Asked]) -> None:
    model = asked("multilabel")
    for image in (picture(""), picture("") // 8, np.full((9, 9, 3), (255, 0, 200), np.uint8)):
        listed = model.answer(image, include=frozenset(["probabilities"])).prediction
        found = model.tensors(image)
        assert found["PROBABILITIES"].tolist() == listed["probabilities"]
        labels = model.model.task.labels
        assert {labels[i] for i in np.flatnonzero(found["PRESENT"])} == set(listed["labels"])


@pytest.mark.parametrize("name", ["regression", "logarithms"])
def test_regression(asked: Callable[[str], Asked], name: str) -> None:
    listed = asked(name).answer(picture(name)).prediction["values"]
    found = asked(name).tensors(picture(name))["VALUES"]
    np.testing.assert_array_equal(found, np.array(list(listed.values()), np.float32))


def test_embedding(asked: Callable[[str], Asked]) -> None:
    listed = asked("embedding").answer(picture("")).prediction["embedding"]
    found = asked("embedding").tensors(picture(""))["EMBEDDING"]
    np.testing.assert_allclose(found, listed, rtol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


SURE = frozenset(["agreement", "probabilities"])


def test_segmentation(asked: Callable[[str], Asked]) -> None:
    model, image = asked("segmentation"), picture("")
    listed = model.answer(image, include=SURE)
    found = model.tensors(image)
    assert listed.picture is not None
    np.testing.assert_array_equal(found["MASK"], np.asarray(Image.open(io.BytesIO(listed.picture))))
    assert found["AREA"].tolist() == list(listed.prediction["area"].values())
    assert found["AGREEMENT"].mean() == pytest.approx(listed.prediction["mean_agreement"], abs=1e-6)
    _check_probabilities(found["PROBABILITIES"], listed)
    np.testing.assert_array_equal(found["PROBABILITIES"].argmax(axis=0), found["MASK"])


def test_masks(asked: Callable[[str], Asked]) -> None:
    model, image = asked("masks"), picture("")
    listed = model.answer(image, include=SURE)
    found = model.tensors(image)
    for mask, drawn in zip(found["MASKS"], listed.prediction["masks"].values(), strict=True):
        np.testing.assert_array_equal(mask, np.asarray(from_base64(drawn)) > 0)
    assert found["AREA"].tolist() == list(listed.prediction["area"].values())
    assert found["AGREEMENT"].mean() == pytest.approx(listed.prediction["mean_agreement"], abs=1e-6)
    _check_probabilities(found["PROBABILITIES"], listed)


def _check_probabilities(found: np.ndarray, listed: Answer) -> None:
    """Pictures have them in steps of 1/65535."""
    pictures = listed.prediction["probabilities"].values()
    drawn = np.stack([np.asarray(from_base64(picture)) for picture in pictures]) / 65535
    np.testing.assert_allclose(found, drawn, atol=0.51 / 65535)


@pytest.mark.parametrize("name", ["heat maps", "letterboxed", "points"])
def test_keypoints(asked: Callable[[str], Asked], name: str) -> None:
    listed = asked(name).answer(picture(name)).prediction["keypoints"]
    found = asked(name).tensors(picture(name))
    np.testing.assert_allclose(found["KEYPOINTS"], [[point["x"], point["y"]] for point in listed], atol=2e-3)
    np.testing.assert_allclose(found["CONFIDENCE"], [point["confidence"] for point in listed], atol=2e-6)
    np.testing.assert_allclose(found["SPREAD"], [point["spread"] for point in listed], atol=2e-3)
    assert found["VISIBLE"].tolist() == [point["visible"] for point in listed]
    assert found["VIEWS"].tolist() == [point["views"] for point in listed]


def test_detection(asked: Callable[[str], Asked]) -> None:
    model, image = asked("detection"), picture("detection")
    listed = model.answer(image).prediction["boxes"]
    found = model.tensors(image)
    assert found["COUNT"].tolist() == [len(listed)] == [len(RECTANGLES)]
    assert found["LABELS"].tolist() == [box["label"] for box in listed] == ["red", "blue"]
    assert found["INDICES"].tolist() == [box["index"] for box in listed]
    assert found["VIEWS"].tolist() == [box["views"] for box in listed]
    assert found["OF"].tolist() == [box["of"] for box in listed]
    np.testing.assert_allclose(found["BOXES"], [box["box"] for box in listed], atol=1e-3)
    np.testing.assert_allclose(found["SCORES"], [box["score"] for box in listed], atol=1e-6)
    np.testing.assert_allclose(found["SPREAD"], [box["spread"] for box in listed], atol=1e-3)


def test_views_that_find_a_box_and_views_that_show_it_are_counted_apart(asked: Callable[[str], Asked]) -> None:
    """One of two views finds this thin bar in this box."""
    image = lit(Size(60, 50), (0, (5, 20, 55, 24), 255))
    turned = {"policy": '["identity", {"rotate": 30}]'}
    listed = asked("detection").answer(image, **turned).prediction["boxes"]
    found = asked("detection").tensors(image, **turned)
    assert found["VIEWS"].tolist() == [box["views"] for box in listed] == [1]
    assert found["OF"].tolist() == [box["of"] for box in listed] == [2]


def test_nothing_detected_has_no_rows(asked: Callable[[str], Asked]) -> None:
    found = asked("detection").tensors(np.zeros((31, 45, 3), np.uint8))
    assert found["COUNT"].tolist() == [0]
    assert found["BOXES"].shape == (0, 4)
    assert all(len(found[name]) == 0 for name in ("SCORES", "LABELS", "INDICES", "VIEWS", "OF", "SPREAD"))


def test_a_value_too_large_for_a_float_is_still_a_number(tmp_path: Path) -> None:
    """exp(255) - 1 is a number for the JSON answer, and infinite as FP32, which JSON can't express."""
    entry = {**FIXED, "scale": 1}
    model = Asked(write_model(tmp_path / "huge", regressor(), config("regression", entry, {"kind": "log1p"})))
    try:
        white = np.full((8, 8, 3), 255, np.uint8)
        listed = model.answer(white).prediction["values"]
        found = model.tensors(white)["VALUES"]
        assert np.isfinite(list(listed.values())).all()
        assert np.isfinite(found).all()
    finally:
        model.close()
