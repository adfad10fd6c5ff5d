"""Half a stride: where in its cell a heat map's score lies is stated by the author, and flips tell if wrongly."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.references import MODELS
from tta_server import load

STRIDE = 8
"""Of the mouse's heat maps, in pixels of a 640x480 frame."""


def aside(folder: Path) -> tuple[float, float]:
    """How far right and down of the plain view's points hflip's and vflip's lie, in the mean over the points."""
    policy = json.dumps(["identity", "hflip", "vflip"])
    with load(folder, slots=1) as model:
        answer = model.predict(MODELS / "mouse" / "sample.jpg", policy=policy, min_views="all", include="views")
    plain, hflip, vflip = (np.array(view["keypoints"])[:, :2] for view in answer.receipt.views)
    return float((hflip - plain)[:, 0].mean()), float((vflip - plain)[:, 1].mean())


def stated(folder: Path, offset: float) -> Path:
    """The mouse's model, said to have its scores there in their cells."""
    config = yaml.safe_load((MODELS / "mouse" / "tta.yaml").read_text())
    config["output"]["offset"] = offset
    (folder / "mouse").mkdir()
    (folder / "mouse" / "tta.yaml").write_text(yaml.safe_dump(config))
    (folder / "mouse" / "1").symlink_to(MODELS / "mouse" / "1")
    return folder / "mouse"


def test_flipped_views_of_the_bundled_model_do_not_lie_aside() -> None:
    assert np.abs(aside(MODELS / "mouse")).max() < STRIDE / 4


@pytest.mark.parametrize(("offset", "expected"), [(0.0, STRIDE), (1.0, -STRIDE)])
def test_half_a_cell_stated_wrongly_puts_flipped_views_a_whole_cell_aside(
    tmp_path: Path, offset: float, expected: float
) -> None:
    there, here = np.array(aside(stated(tmp_path, offset))), np.array(aside(MODELS / "mouse"))
    np.testing.assert_allclose(there - here, expected, atol=0.1)
