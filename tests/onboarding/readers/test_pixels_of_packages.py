"""The plain view of what `init` makes of a description equals what the tool does to an image, to the value.

The tools' steps are written out here, as their source has them; images are of 60 random sizes.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.onboarding.readers.test_mmdeploy import MEAN, NORMALIZE, STD, pipeline
from tests.onboarding.readers.test_openvino import OTX
from tests.onboarding.readers.test_roboflow import NETWORK
from tests.support.exports import classifier_of, with_metadata, write_export
from tests.support.patterns import noise
from tests.support.preparations import viewed
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.documents import documents_beside
from tta_server.onboarding.draft import draft
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.model_file import read_model_file
from tta_server.repository.loader import load_model
from tta_server.views.geometry import Size
from tta_server.views.view import View

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 64, 96
FREE = ("n", 3, "h", "w")
FIXED = (1, 3, HEIGHT, WIDTH)
SQUARE = (1, 3, WIDTH, WIDTH)


def normalized(pixels: Any, mean: Any, std: Any, scale: float = 1) -> NDArray[np.float32]:
    values = (pixels.astype(np.float32) / np.float32(scale) - np.float32(mean)) / np.float32(std)
    return values.transpose(2, 0, 1)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    found: Any = cv2.resize(pixels, (width, height))
    return found


def filled(pixels: Pixels, size: tuple[int, int], place: tuple[int, int], fill: int) -> Pixels:
    """Pixels at a place, (top, left), in an image of one value."""
    found = np.full((*size, 3), fill, np.uint8)
    top, left = place
    found[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return found


def roboflow_letterbox(pixels: Pixels) -> Any:
    height, width = pixels.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    high, wide = int(height * scale), int(width * scale)
    place = int((HEIGHT - high) / 2), int((WIDTH - wide) / 2)
    return normalized(filled(resized(pixels, high, wide), (HEIGHT, WIDTH), place, 127), 0, 1, 255)


def roboflow_stretch(pixels: Pixels) -> Any:
    return normalized(resized(pixels, HEIGHT, WIDTH), 0, 1, 255)


def mmdeploy_square(pixels: Pixels) -> Any:
    height, width = pixels.shape[:2]
    scale = WIDTH / max(height, width)
    high, wide = int(height * scale + 0.5), int(width * scale + 0.5)
    return normalized(filled(resized(pixels, high, wide), (WIDTH, WIDTH), (0, 0), 114), MEAN, STD)


def mmdeploy_multiple(pixels: Pixels) -> Any:
    height, width = pixels.shape[:2]
    scale = min(133 / max(height, width), 80 / min(height, width))
    high, wide = int(height * scale + 0.5), int(width * scale + 0.5)
    found = np.zeros((3, math.ceil(high / 32) * 32, math.ceil(wide / 32) * 32), np.float32)
    found[:, :high, :wide] = normalized(resized(pixels, high, wide), MEAN, STD)
    return found


def mmdeploy_letter_resize(pixels: Pixels) -> Any:
    height, width = pixels.shape[:2]
    scale = min(WIDTH / height, WIDTH / width)
    high, wide = (math.floor(side * scale + 0.5) for side in (height, width))
    place = (WIDTH - high) // 2, (WIDTH - wide) // 2
    return normalized(filled(resized(pixels, high, wide), (WIDTH, WIDTH), place, 114), MEAN, STD)


def openvino_letterbox(pixels: Pixels) -> Any:
    height, width = pixels.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    high, wide = round(height * scale), round(width * scale)
    place = (HEIGHT - high) // 2, (WIDTH - wide) // 2
    return normalized(filled(resized(pixels, high, wide), (HEIGHT, WIDTH), place, 114), MEAN, STD)


def openvino_standard(pixels: Pixels) -> Any:
    return normalized(resized(pixels, HEIGHT, WIDTH)[:, :, ::-1], MEAN, STD)


def roboflow(**changes: Any) -> dict[str, Any]:
    size = {"height": HEIGHT, "width": WIDTH}
    return {"inference_config_json": {"network_input": NETWORK | {"training_input_size": size} | changes}}


def mmdeploy(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"pipeline_json": pipeline(*transforms, component="LinearClsHead", module="mmpretrain")}


def openvino(**changes: str) -> dict[str, str]:
    return {f"model_info {key}": value for key, value in (OTX | changes).items()}


SIDES = {"type": "Resize", "keep_ratio": True, "size": [WIDTH, WIDTH]}
PAD = {"type": "Pad", "size": [WIDTH, WIDTH], "pad_val": {"img": [114, 114, 114]}}
SHORT = {"type": "Resize", "keep_ratio": True, "size": [133, 80]}
LETTER = {"type": "LetterResize", "scale": [WIDTH, WIDTH], "pad_val": {"img": 114}}
LETTERBOX = openvino(resize_type="fit_to_window_letterbox", pad_value="114")


@pytest.mark.parametrize(
    ("expected", "shape", "files", "metadata"),
    [
        (roboflow_letterbox, FREE, roboflow(), {}),
        (roboflow_stretch, FREE, roboflow(resize_mode="stretch"), {}),
        (mmdeploy_square, SQUARE, mmdeploy(SIDES, PAD, NORMALIZE), {}),
        (mmdeploy_multiple, FREE, mmdeploy(SHORT, NORMALIZE, {"type": "Pad", "size_divisor": 32}), {}),
        (mmdeploy_letter_resize, SQUARE, mmdeploy(LETTER, NORMALIZE), {}),
        (openvino_letterbox, FIXED, {}, LETTERBOX),
        (openvino_standard, FIXED, {}, openvino(reverse_input_channels="True")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_pixels(tmp_path: Path, expected: Callable[[Pixels], Any], shape: Any, files: Any, metadata: Any) -> None:
    file = write_export(tmp_path, with_metadata(classifier_of(shape), metadata), "m.onnx", **files)
    stated = {"task": "classification", "output.kind": "logits", "labels": ["a", "b", "c"]}
    facts = [Fact(key, value, "stated") for key, value in stated.items()]
    found = conclude(read_model_file(file), Given(facts), documents_beside(file))
    assert not found.refusals
    assert not found.choices
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(file.read_bytes())
    (tmp_path / "m" / "tta.yaml").write_text(draft(found).text)
    preprocessing = load_model(tmp_path / "m").preprocessing
    random = np.random.default_rng(17)
    for _ in range(60):
        width, height = (int(side) for side in random.integers(4, 300, 2))
        pixels = noise(Size(width, height), seed=int(random.integers(1 << 30)))
        tensor, _ = viewed(preprocessing, pixels, View())
        np.testing.assert_array_equal(tensor, expected(pixels))
