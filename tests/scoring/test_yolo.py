"""YOLO's text files by values computed by hand, in an archive that is the same every time."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scoring.test_coco import GREEN, RED, lit, tiny
from tests.support.scoring import BROKEN, shard_of
from tta_server.errors import ConfigError
from tta_server.scoring.schema import Schema
from tta_server.scoring.yolo import check_label_paths, label_path, yolo_summaries


def files_of(content: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]


def test_boxes_as_shares_of_the_image(tmp_path: Path) -> None:
    """Of 20 by 16 pixels: a box from (3, 2) to (9, 7), and one from (10, 4) to (12, 12)."""
    images: list[Any] = [lit(RED, GREEN), BROKEN, lit()]
    content = shard_of("yolo", tiny("detection", tmp_path), images, 256)
    found = files_of(content)
    status = [json.loads(line) for line in found.pop("status/000000256.jsonl").splitlines()]
    assert found == {"labels/0.txt": "0 0.3 0.28125 0.3 0.3125 1\n1 0.55 0.5 0.1 0.5 0.8\n", "labels/2.txt": ""}
    assert [(row["id"], row["status"], row.get("labels"), row.get("boxes")) for row in status] == [
        ("0", "ok", "labels/0.txt", 2), ("1", "failed", None, None), ("2", "ok", "labels/2.txt", 0),
    ]  # fmt: skip
    assert status[1]["error"].startswith("this is not an image")
    assert (status[0]["width"], status[0]["height"], status[0]["views"]) == (20, 16, 1)
    assert content == shard_of("yolo", tiny("detection", tmp_path / "again"), images, 256)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.jpg", "labels/a.txt"),
        ("sub/part/a.JPEG", "labels/sub/part/a.txt"),
        ("/data/photos/a.png", "labels/data/photos/a.txt"),
        ("../../etc/a.png", "labels/etc/a.txt"),
        ("row 17", "labels/row 17.txt"),
        ("v1.2", "labels/v1.2.txt"),
    ],
)
def test_a_label_file_has_the_path_of_its_image(image: str, label: str) -> None:
    assert label_path(image) == label


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "labels"]), max_size=5), st.sampled_from(["x.png", "y"]))
def test_no_label_file_leaves_its_folder(parts: list[str], name: str) -> None:
    found = label_path("/".join([*parts, name])).split("/")
    assert found[0] == "labels"
    assert not {"", ".", ".."} & set(found)


def test_images_with_one_label_file_are_refused() -> None:
    check_label_paths(["a.jpg", "b.jpg", "sub/a.jpg", "a.jpg.jpg"])
    with pytest.raises(ConfigError, match=r"'a\.jpg' and 'a\.png' would both be labels/a\.txt; rename one of them"):
        check_label_paths(["a.jpg", "b.jpg", "a.png"])


def test_the_names_of_classes() -> None:
    ((name, chunks),) = yolo_summaries(Schema("detection", "toy", ("bolt", "nut")), [])
    assert (name, b"".join(chunks)) == ("classes.txt", b"bolt\nnut\n")
