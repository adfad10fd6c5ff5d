"""`tta-server inspect`."""

import json
from pathlib import Path

from tests.support.commands import check_mistake, run
from tests.support.exports import YOLO, classifier_of, with_metadata, write_export, yolo, yolo_segment


def test_the_facts_of_a_detector_have_their_source(tmp_path: Path) -> None:
    file = write_export(tmp_path, with_metadata(yolo(), YOLO), "yolo.onnx")
    done = run("inspect", file, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["inputs"] == [{"name": "image", "type": "tensor(float)", "shape": [1, 3, 64, 96]}]
    assert found["outputs"] == [{"name": "output0", "type": "tensor(float)", "shape": [1, 7, 3]}]
    assert found["metadata"] == YOLO
    facts = {fact["key"]: (fact["value"], fact["source"]) for fact in found["facts"]}
    assert facts["input.size"] == ([64, 96], "metadata imgsz")
    assert facts["labels"] == (["red", "green", "blue"], "metadata names, 3 of them")
    assert facts["output.head"] == ("yolov8", "YOLO without nms or end2end: [1, 7, 3]")
    assert (found["choices"], found["refusals"]) == ([], [])
    assert facts["input.resize_like"][0] == "opencv"


def test_tables_say_the_same(tmp_path: Path) -> None:
    file = write_export(tmp_path, with_metadata(yolo(), YOLO))
    done = run("inspect", file)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("[1, 3, 64, 96]", "output0", "imgsz", "letterbox", "metadata task"))


def test_what_is_not_known_is_open(tmp_path: Path) -> None:
    done = run("inspect", write_export(tmp_path, classifier_of()))
    assert done.returncode == 0, done.stderr
    assert "not known; allowed: RGB | BGR" in done.stdout


def test_a_model_that_is_not_served_can_be_inspected(tmp_path: Path) -> None:
    done = run("inspect", write_export(tmp_path, yolo_segment()), "--json")
    assert done.returncode == 0, done.stderr
    (refusal,) = json.loads(done.stdout)["refusals"]
    assert "'segment'" in refusal
    assert f"error: {refusal}" in run("inspect", tmp_path / "model.onnx").stderr


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "photo.onnx").write_bytes(b"no model")
    mistake = check_mistake(run("inspect", tmp_path / "photo.onnx"))
    assert "ONNX Runtime can't load the file: it is no ONNX file, or a damaged one; export or download it" in mistake
    assert f"{tmp_path}: is a folder; name the ONNX file in it: photo.onnx" in check_mistake(run("inspect", tmp_path))
    assert "No such file" in check_mistake(run("inspect", tmp_path / "missing.onnx"))


def test_a_fixed_batch_axis_is_said(tmp_path: Path) -> None:
    fixed, free = (run("inspect", write_export(tmp_path, classifier_of((n, 3, 8, 8))), "--json") for n in (1, "n"))
    assert ["batch axis is fixed at 1" in " ".join(json.loads(done.stdout)["notes"]) for done in (fixed, free)] == [
        True,
        False,
    ]
    assert "warning: the file's batch axis is fixed at 1" in run("inspect", write_export(tmp_path, yolo())).stderr
