"""COCO's JSON by values computed by hand: boxes, points, masks, numbers of images and labels, a whole run's files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.onnx_models import detector, write_model
from tests.support.rle import decoded
from tests.support.scoring import BROKEN, shard_of
from tests.tasks.boxes.test_detection_served import CONFIG
from tests.tasks.boxes.test_detection_served import lit as lit_image
from tests.tasks.test_every_task import TINY
from tta_server.errors import ConfigError
from tta_server.scoring.coco import coco_summaries
from tta_server.scoring.formats import FORMATS, check_fits
from tta_server.scoring.schema import Schema
from tta_server.views.geometry import Size

BRIGHT = (detector(), {**CONFIG, "policy": "plain"})


def tiny(task: str, folder: Path) -> Path:
    model, config = BRIGHT if task == "detection" else TINY[task]
    return write_model(folder / "toy", model, config)


def lit(*rectangles: Any) -> np.ndarray:
    """A black image of 20 by 16 pixels with rectangles: channel, (left, top, right, bottom), brightness."""
    return lit_image(Size(20, 16), *rectangles)


RED, GREEN = (0, (3, 2, 9, 7), 255), (1, (10, 4, 12, 12), 204)


def dataset(task: str, folder: Path, *images: Any, first: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shard_of("coco", tiny(task, folder), images, first))
    return found


def test_boxes(tmp_path: Path) -> None:
    """`bbox` is left, top, width, height; an image's id is its number in the whole input."""
    found = dataset("detection", tmp_path, lit(RED, GREEN), BROKEN, lit(), lit(GREEN), first=512)
    assert found["images"] == [{"id": n, "file_name": str(n - 512), "width": 20, "height": 16} for n in (512, 514, 515)]
    assert [(each["id"], each["file_name"]) for each in found["failures"]] == [(513, "1")]
    assert found["failures"][0]["error"].startswith("this is not an image")
    assert [
        {key: each[key] for key in ("image_id", "category_id", "bbox", "score")} for each in found["annotations"]
    ] == [
        {"image_id": 512, "category_id": 1, "bbox": [3, 2, 6, 5], "score": 1.0},
        {"image_id": 512, "category_id": 2, "bbox": [10, 4, 2, 8], "score": 0.8},
        {"image_id": 515, "category_id": 2, "bbox": [10, 4, 2, 8], "score": 0.8},
    ]
    assert [each["area"] for each in found["annotations"]] == [30, 16, 16]
    assert len({each["id"] for each in found["annotations"]}) == 3
    assert found["categories"] == [{"id": n, "name": name} for n, name in enumerate(CONFIG["labels"], 1)]


def test_points_are_counted_from_the_centre_of_the_first_pixel(tmp_path: Path) -> None:
    """The model's points are at 1.6, 3.2 and 8 of 8 pixels, from the corner of the image."""
    color = np.zeros((8, 8, 3), np.uint8) + np.array([51, 102, 255], np.uint8)
    found = dataset("points", tmp_path, color)
    (one,) = found["annotations"]
    assert one["keypoints"] == [1.1, 1.1, 2, 2.7, 2.7, 2, 7.5, 7.5, 2]
    assert (one["num_keypoints"], one["bbox"], one["score"]) == (3, [1.1, 1.1, 6.4, 6.4], 1)
    assert found["categories"] == [{"id": 1, "name": "toy", "keypoints": ["red", "green", "blue"], "skeleton": []}]


def test_a_point_that_is_not_visible(tmp_path: Path) -> None:
    """Heat maps of 0.2, 0.4 and 0.8, of which the first is not enough: COCO's 1 and 2."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[4:8, 4:8] = [51, 102, 204]
    (one,) = dataset("heat maps", tmp_path, image)["annotations"]
    assert one["keypoints"][2::3] == [1, 2, 2]
    assert one["score"] == pytest.approx((0.2 + 0.4 + 0.8) / 3, abs=1e-5)


def test_a_mask_has_the_confidence_of_the_answer(tmp_path: Path) -> None:
    """Each pixel's largest probability is 0.8."""
    (one,) = dataset("segmentation", tmp_path, np.full((4, 4, 3), [204, 0, 51], np.uint8))["annotations"]
    assert (one["category_id"], one["area"], one["score"]) == (1, 16, pytest.approx(0.8, abs=1e-6))


@pytest.mark.parametrize("task", ["segmentation", "masks"])
def test_a_mask_for_each_label_that_occurs(tmp_path: Path, task: str) -> None:
    image = np.zeros((2, 5, 3), np.uint8)
    image[:, :2, 0] = image[:, 2:, 2] = 255
    found = dataset(task, tmp_path, image)["annotations"]
    assert [(each["category_id"], each["area"], each["score"]) for each in found] == [(1, 4, 1), (3, 6, 1)]
    masks = [decoded(each["segmentation"]) for each in found]
    assert np.array_equal(masks, image.transpose(2, 0, 1)[[0, 2]] > 0)


@pytest.mark.parametrize(
    ("name", "task", "sentence"),
    [
        ("coco", "classification", "--format coco does not hold classification; for toy use parquet, jsonl, csv"),
        ("yolo", "keypoints", "--format yolo does not hold keypoints; for toy use parquet, jsonl, csv, coco"),
        ("yolo", "segmentation", "--format yolo does not hold segmentation"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(name: str, task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_fits(FORMATS[name], Schema(task, "toy"), None)


def summaries(schema: Schema, *shards: Path) -> dict[str, Any]:
    return {name: json.loads(b"".join(chunks)) for name, chunks in coco_summaries(schema, shards)}


def test_the_files_of_a_whole_run_are_its_shards_together(tmp_path: Path) -> None:
    model = tiny("detection", tmp_path)
    shards = [tmp_path / "0.json", tmp_path / "1.json", tmp_path / "2.json"]
    shards[0].write_bytes(shard_of("coco", model, [lit(RED, GREEN), lit()]))
    shards[1].write_bytes(shard_of("coco", model, [BROKEN, lit(GREEN)], 2))
    shards[2].write_bytes(shard_of("coco", model, [lit()], 4))
    found = summaries(Schema("detection", "toy", ("bolt", "nut", "screw")), *shards)
    assert found["results.json"] == [
        {"image_id": 0, "category_id": 1, "bbox": [3, 2, 6, 5], "score": 1.0},
        {"image_id": 0, "category_id": 2, "bbox": [10, 4, 2, 8], "score": 0.8},
        {"image_id": 3, "category_id": 2, "bbox": [10, 4, 2, 8], "score": 0.8},
    ]
    assert [each["id"] for each in found["images.json"]["images"]] == [0, 1, 3, 4]
    assert [each["id"] for each in found["images.json"]["failures"]] == [2]
    assert found["images.json"]["annotations"] == []
    assert [each["name"] for each in found["images.json"]["categories"]] == ["bolt", "nut", "screw"]
    assert summaries(Schema("detection", "toy"), shards[2])["results.json"] == []


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff"])
def test_a_shard_that_was_changed_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "part-00000.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"part-00000\.json: not as it was written; delete it"):
        summaries(Schema("detection", "toy"), tmp_path / "part-00000.json")
