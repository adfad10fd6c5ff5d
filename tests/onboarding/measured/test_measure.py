"""What is measured on images without labels: facts where one candidate is ahead, notes where none is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.batch_nets import net, node
from tests.support.exports import write_export
from tests.support.measured_nets import COLORS, prototypes, red_boxes, write_images
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.evidence import Fact, Note
from tta_server.onboarding.measured import classes
from tta_server.onboarding.measured.measure import Images, measure_images
from tta_server.onboarding.model_file import read_model_file

CLASSES = {
    "task": "classification",
    "labels": ["black", "red", "orange", "yellow"],
    "input.resize": "exact",
    "output.kind": "logits",
}
BOXES: dict[str, Any] = {
    "task": "detection",
    "labels": ["red"],
    "input.resize": "exact",
    "input.scale": 255,
    "input.mean": [0],
    "input.std": [1],
    "output.kind": "probabilities",
    "output.format": "xyxy",
    "output.units": "pixels",
    "output.nms": None,
}


def measured(
    tmp_path: Path, model: onnx.ModelProto, values: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], list[str], Conclusion]:
    """Measured facts by key, notes, and the whole conclusion."""
    file = read_model_file(write_export(tmp_path, model))
    found = conclude(file, Given([Fact(key, value, "stated") for key, value in values.items()]), [])
    seen: list[Path] = []

    def track(paths: Sequence[Path]) -> Sequence[Path]:
        seen.extend(paths)
        return paths

    paths = sorted(folder.iterdir())
    findings = list(measure_images(file, found, Images(paths, track, 1)))
    assert sorted(seen) in (paths, [])
    found.extend(findings, file)
    facts = {each.key: (each.value, each.source) for each in findings if isinstance(each, Fact)}
    return facts, [each.sentence for each in findings if isinstance(each, Note)], found


def test_colours_of_a_classifier(tmp_path: Path) -> None:
    """Its answers are as sure with other normalisations, which is said; of the scale, too."""
    facts, notes, found = measured(tmp_path, prototypes(), CLASSES, write_images(tmp_path / "i", 48))
    assert {key: value for key, (value, _) in facts.items()} == {"input.color": "RGB"}
    assert facts["input.color"][1].startswith("measured on 48 images: ")
    assert "(RGB) against" in facts["input.color"][1]
    assert [note.partition(", measured on 48 images: ")[0] for note in notes] == [
        "input.scale: cannot tell",
        "input.mean and input.std: cannot tell",
    ]
    assert [choice.key for choice in found.choices] == ["input.scale", "input.mean", "input.std"]


def test_a_file_that_takes_one_image_gives_the_same(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "i", 40)
    one, many = (measured(tmp_path, prototypes((n, 3, 8, 8)), CLASSES, folder)[0] for n in (1, "n"))
    assert one == many


def test_probabilities_give_the_same_as_logits(tmp_path: Path) -> None:
    folder, model = write_images(tmp_path / "i", 40), prototypes()
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(node("Softmax", ["logits"], ["out"]))
    facts, _, _ = measured(tmp_path, model, CLASSES | {"output.kind": "probabilities"}, folder)
    assert facts == measured(tmp_path, prototypes(), CLASSES, folder)[0]


def test_a_model_that_does_not_look_at_images_tells_nothing(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
        node("Gemm", ["colour", "w", "b"], ["out"]),
    ]
    model = net(nodes, {"w": np.zeros((3, 4), np.float32), "b": (4,)}, ["n", 4], ("n", 3, 8, 8))
    facts, (note,), _ = measured(tmp_path, model, CLASSES, write_images(tmp_path / "i", 40))
    assert facts == {}
    assert "by no candidate do the answers depend on the 40 images" in note


def test_a_normalization_that_is_ahead_is_concluded(tmp_path: Path) -> None:
    """Mean and std are stated, and only the scale is open; by values to 255 this net takes most colours for one."""
    stated = CLASSES | {"input.color": "RGB", "input.mean": [0], "input.std": [1]}
    model = prototypes()
    weights = {each.name: each for each in model.graph.initializer}
    points = np.array(list(COLORS.values())) / 255
    for name, values in (("w", 60 * points.T), ("b", -30 * (points**2).sum(1))):
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    facts, notes, _ = measured(tmp_path, model, stated, write_images(tmp_path / "i", 48))
    assert (facts["input.scale"][0], notes) == (255, [])


def test_candidates_far_behind_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "i", 60)
    monkeypatch.setattr(classes, "FIRST", 10**9)
    every = measured(tmp_path, prototypes(), CLASSES, folder)[0]
    monkeypatch.setattr(classes, "FIRST", 24)
    assert {key: fact[0] for key, fact in measured(tmp_path, prototypes(), CLASSES, folder)[0].items()} == {
        key: fact[0] for key, fact in every.items()
    }


def test_a_classifier_that_takes_blue_first(tmp_path: Path) -> None:
    model = prototypes()
    model.graph.node[0].input[0] = "swapped"
    model.graph.node.insert(0, node("Gather", ["image", "bgr"], ["swapped"], axis=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    facts, _, _ = measured(tmp_path, model, CLASSES, write_images(tmp_path / "i", 48))
    assert facts["input.color"][0] == "BGR"


@pytest.mark.parametrize(
    ("count", "colors", "sentence"),
    [
        (48, ["red", "yellow"], "--images: cannot tell anything: the answers for 48 images are mostly of 2 of the "),
        (5, [], "--images: cannot tell anything by 5 images that could be read, of 5; give at least 8"),
    ],
)
def test_few_classes_and_few_images_tell_nothing(tmp_path: Path, count: int, colors: list[str], sentence: str) -> None:
    facts, notes, _ = measured(tmp_path, prototypes(), CLASSES, write_images(tmp_path / "i", count, *colors))
    assert facts == {}
    assert notes[0].startswith(sentence)


def test_files_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "i", 40)
    (folder / "a.png").write_bytes(b"no image")
    facts, _, _ = measured(tmp_path, prototypes(), CLASSES, folder)
    assert "measured on 40 images" in facts["input.color"][1]


def test_colours_of_a_detector(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "i", 20, "red", "yellow")
    facts, notes, found = measured(tmp_path, red_boxes(), BOXES, folder)
    assert facts["input.color"][0] == "RGB"
    assert "measured on 20 images: scores of boxes over 0.3 sum to 1" in facts["input.color"][1]
    assert (notes, found.choices) == ([], [])


def test_colours_that_a_detector_does_not_look_at(tmp_path: Path) -> None:
    facts, (note,), _ = measured(tmp_path, red_boxes(), BOXES, write_images(tmp_path / "i", 20, "black"))
    assert facts == {}
    assert note.startswith("input.color: cannot tell, measured on 20 images")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "the task is not known; state it with --set task=..."),
        ({"task": "embedding"}, "the task is embedding; colours, resize and normalisation of a classification are"),
        ({"task": "classification"}, "output.kind must be stated first"),
        (CLASSES | {"input.scale": 7, "input.color": "RGB"}, "or no usual value agrees with them"),
        (
            {"task": "detection", "input.color": "RGB"},
            "of a detector only input.color can be measured, which is stated",
        ),
        ({"task": "detection"}, "of a detector only input.color can be measured, once labels, "),
        (CLASSES | {"input.resize_like": "x"}, "resize_like is 'x'"),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    facts, (note,), _ = measured(tmp_path, prototypes(), values, write_images(tmp_path / "i", 10))
    assert facts == {}
    assert note.startswith("--images: nothing is measured: ")
    assert sentence in note


def test_a_model_that_fails_is_said(tmp_path: Path) -> None:
    fails = net([node("Reshape", ["image", "s"], ["out"])], {"s": np.array([1, 5])}, (1, 5), (1, 3, "h", 8))
    values = CLASSES | {"input.size": [8, 8]}
    facts, (note,), _ = measured(tmp_path, fails, values, write_images(tmp_path / "i", 10))
    assert facts == {}
    assert "nothing is measured: the model fails on an image: " in note
