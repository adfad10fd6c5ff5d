"""A manifest tells runs apart whose results may differ, whatever makes them differ."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.support.references import MODELS
from tests.support.scoring import rows_of, run_scoring, toy, write_images
from tta_server.errors import ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.manifest import LIBRARIES, digest_inputs, fingerprint
from tta_server.scoring.scorer import open_plan, read_scoring_options


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


def found(folder: Path, batch: int = 2, name: str = "jsonl", limits: Limits | None = None, **options: Any) -> Any:
    plan = open_plan(folder, read_scoring_options(options))
    try:
        return json.loads(json.dumps(fingerprint(plan, folder, batch, name, limits or Limits())))
    finally:
        plan.model.retire()


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("batch", {"batch": 3}),
        ("format", {"name": "parquet"}),
        ("limits", {"limits": Limits(max_bytes=100)}),
        ("limits", {"limits": Limits(max_pixels=100)}),
        ("top_k", {"top_k": 2}),
        ("masks", {"masks": "rle"}),
        ("include", {"include": ["views"]}),
        ("min_views", {"min_views": "all"}),
        ("stop", {"stop": "certain"}),
        ("merge", {"merge": "vote"}),
        ("views", {"max_views": 1}),
        ("policy", {"policy": "plain"}),
    ],
)
def test_each_option_is_told_apart(model: Path, key: str, options: dict[str, Any]) -> None:
    plain, other = found(model), found(model, **options)
    assert plain == found(model)
    assert plain[key] != other[key]
    assert plain.keys() == other.keys()


def test_another_model_file_is_told_apart(model: Path, tmp_path: Path) -> None:
    """One with an empty description."""
    other = shutil.copytree(model, tmp_path / "toy")
    path = next(other.rglob("model.onnx"))
    path.write_bytes(path.read_bytes() + b"\x32\x00")
    assert {key for key, value in found(model).items() if found(other)[key] != value} == {"model"}


def test_another_calibration_is_told_apart(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / "cifar10", tmp_path / "cifar10")
    before = found(folder)
    (folder / "calibration.json").unlink()
    after = found(folder)
    assert before["calibration"].startswith("sha256:")
    assert after["calibration"] is None


def test_versions_are_those_that_are_installed(model: Path) -> None:
    versions = found(model)["versions"]
    assert versions.keys() == set(LIBRARIES)
    assert versions["numpy"] == version("numpy")


def test_the_same_text_in_other_marks_is_told_apart() -> None:
    assert digest_inputs(["a", "b"]) == digest_inputs(iter(["a", "b"]))
    assert digest_inputs(["a", "b"])["images"] == 2
    assert len({digest_inputs(marks)["sha256"] for marks in (["a", "b"], ["b", "a"], ["ab", ""], ["ab"])}) == 4


def test_a_run_with_other_limits_is_not_resumed(model: Path, tmp_path: Path) -> None:
    """Of one image, that is too large under the first limit only."""
    photos = write_images(tmp_path / "photos", 1)
    run_scoring(model, photos, tmp_path / "out", limits=Limits(max_pixels=10))
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["failed"]
    with pytest.raises(ConfigError, match=r"was begun with limits .*10.*; results of both do not belong together"):
        run_scoring(model, photos, tmp_path / "out")
