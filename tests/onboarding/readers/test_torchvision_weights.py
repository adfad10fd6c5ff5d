"""torchvision's weights: documents as `read_weights` makes them, and torchvision itself where it is installed."""

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.errors import ConfigError
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.documents import documents_in
from tta_server.onboarding.evidence import Document
from tta_server.onboarding.model_file import TensorInfo
from tta_server.onboarding.readers.torchvision_weights import KEY, read_weights

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSIFIER = {
    KEY: "ImageClassification",
    "categories": ["tench", "crane", "crane"],
    "crop_size": [224],
    "resize_size": [232],
    "mean": MEAN,
    "std": STD,
    "interpolation": "bilinear",
}
SEGMENTER = CLASSIFIER | {KEY: "SemanticSegmentation", "categories": ["__background__", "cat"], "crop_size": None}
SEGMENTER |= {"resize_size": [520]}
DETECTOR = {KEY: "ObjectDetection", "categories": ["__background__", "person", "N/A", "cat", "N/A"]}
FREE = ("n", 3, "h", "w")
BOXES = TensorInfo("boxes", FLOAT, ("m", 4))
LABELS = TensorInfo("labels", "tensor(int64)", ("m",))
SCORES = TensorInfo("scores", FLOAT, ("m",))


def concluded(content: dict[str, Any], *outputs: TensorInfo, shape: Any = FREE, **changes: Any) -> Conclusion:
    documents = [Document("torchvision:X_Weights.V1", content | changes)]
    return conclude(model_file(*(outputs or (LOGITS,)), shape=shape), Given(documents=documents), [])


def test_a_classifier() -> None:
    found = concluded(CLASSIFIER)
    assert not found.refusals
    assert not found.choices
    assert {key[6:]: fact.value for key, fact in found.facts.items() if key.startswith("input.")} == {
        "size": [224, 224],
        "resize": 232,
        "resize_like": "pillow",
        "interpolation": "bilinear",
        "color": "RGB",
        "scale": 255,
        "mean": MEAN,
        "std": STD,
        "layout": "NCHW",
    }
    assert values(found)["labels"] == ["tench", "crane (1)", "crane (2)"]
    assert (values(found)["task"], values(found)["output.kind"]) == ("classification", "logits")


def test_weights_without_categories() -> None:
    assert [choice.key for choice in concluded(CLASSIFIER, categories=None).choices] == ["labels"]


def test_a_segmenter() -> None:
    output, other = (TensorInfo(name, FLOAT, (1, 2, 64, 64)) for name in ("out", "aux"))
    found = values(concluded(SEGMENTER, output, other))
    assert (found["input.size"], found["input.resize"], found["input.mean"]) == ("free", 520, MEAN)
    assert (found["task"], found["output.name"], found["labels"]) == ("segmentation", "out", ["__background__", "cat"])
    assert "output.name" in {choice.key for choice in concluded(SEGMENTER, other, LOGITS).choices}
    fixed = concluded(SEGMENTER, output, shape=(1, 3, 64, 96))
    assert "input.resize" in {choice.key for choice in fixed.choices}
    assert "short side to 520 without a crop, but the file's input [1, 3, 64, 96] is fixed" in fixed.notes[0]


def test_a_detector() -> None:
    """Labels are those behind the background; unused classes of COCO get their number."""
    found = concluded(DETECTOR, BOXES, LABELS, SCORES)
    assert not found.refusals
    assert values(found)["labels"] == ["person", "N/A (1)", "cat", "N/A (3)"]
    stated = {"size": "free", "resize": "none", "scale": 255, "mean": [0], "std": [1], "color": "RGB"}
    assert values(found, "input.") | stated == values(found, "input.")
    assert values(found)["output.head"] == "torchvision"
    assert "output.boxes" not in values(found)


def test_outputs_of_a_detector_without_names() -> None:
    """RetinaNet and SSD give scores before labels, Faster R-CNN behind them."""
    named = [TensorInfo(name, each.type, each.shape) for name, each in zip("abc", (BOXES, SCORES, LABELS), strict=True)]
    found = values(concluded(DETECTOR, *named), "output.")
    assert (found["boxes"], found["scores"], found["labels"]) == ("a", "b", "c")


def test_masks_of_a_detector_are_left_out() -> None:
    masks = TensorInfo("masks", FLOAT, ("m", 1, 28, 28))
    assert "masks and points of single objects are left out" in str(concluded(DETECTOR, BOXES, LABELS, SCORES, masks))


@pytest.mark.parametrize(
    ("content", "changes", "sentence"),
    [
        (CLASSIFIER, {KEY: "VideoClassification"}, "models with transforms VideoClassification are not served"),
        (CLASSIFIER, {"interpolation": "hamming"}, "interpolation 'hamming' can't be stated"),
        (CLASSIFIER, {"resize_size": [128, 171]}, "resize_size [128, 171] and crop_size [224, 224] can't be stated"),
        (CLASSIFIER, {"resize_size": [128]}, "resize_size [128] and crop_size [224, 224] can't be stated"),
        (SEGMENTER, {"resize_size": None}, "resize_size [] can't be stated"),
        (DETECTOR, {}, "detectors give boxes, labels and scores, but the file gives logits [1, 3]"),
        (CLASSIFIER, {"mean": "ImageNet's"}, 'torchvision:X_Weights.V1: mean is "ImageNet\'s"; it should be a list'),
    ],
)
def test_what_is_refused(content: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    (refusal,) = concluded(content, **changes).refusals
    assert sentence in refusal


# ---- torchvision itself ----


class Interpolation(Enum):
    BICUBIC = "bicubic"


class ImageClassification:
    """As torchvision's preset."""

    def __init__(self) -> None:
        self.crop_size, self.resize_size = [384], [390]
        self.mean, self.std = MEAN, STD
        self.interpolation, self.antialias = Interpolation.BICUBIC, True


def get_weight(name: str) -> Any:
    """As torchvision's: KeyError for a name that an enumeration lacks, ValueError for others."""
    if "." not in name:
        raise ValueError(f"Invalid weight name provided: '{name}'.")
    return {"ViT_Weights.DEFAULT": Weights()}[name]


class Weights(SimpleNamespace):
    transforms, meta = ImageClassification, {"categories": ["tench", "goldfish", "shark"], "num_params": 7}

    def __str__(self) -> str:
        return "ViT_Weights.V1"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with torchvision's function."""
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.get_weight = get_weight  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.usefixtures("stand_in")
def test_weights_by_name() -> None:
    (document,) = documents_in(Path("torchvision:ViT_Weights.DEFAULT"))
    assert document.name == "torchvision:ViT_Weights.V1"
    found = conclude(model_file(shape=FREE), Given(documents=[document]), [])
    assert values(found)["labels"] == ["tench", "goldfish", "shark"]
    stated = {"size": [384, 384], "resize": 390, "interpolation": "bicubic"}
    assert values(found, "input.") | stated == values(found, "input.")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["ViT_Weights.V9", "vit", "", "."])
def test_weights_that_there_are_not(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"torchvision has no weights of that name; give one like torchvision:ResNet50"
    ):
        read_weights(f"torchvision:{name}")


def test_torchvision_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ConfigError, match=r"needs torchvision in the same environment: pip install torchvision"):
        read_weights("torchvision:ResNet50_Weights.DEFAULT")


def test_torchvision_that_can_t_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another torch: an error from its own import."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"can't be imported: operator nms does not exist; install versions of torch"):
        read_weights("torchvision:ResNet50_Weights.DEFAULT")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("ResNet50_Weights.IMAGENET1K_V2", FREE, {"input.size": [224, 224], "input.resize": 232}),
        ("ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1", FREE, {"input.size": [518, 518], "input.interpolation": "bicubic"}),
        ("DeepLabV3_ResNet50_Weights.DEFAULT", FREE, {"input.size": "free", "input.resize": 520}),
        ("RetinaNet_ResNet50_FPN_Weights.DEFAULT", FREE, {"output.head": "torchvision"}),
    ],
)
def test_weights_of_torchvision(name: str, shape: Any, expected: dict[str, Any]) -> None:
    pytest.importorskip("torchvision")
    outputs = (BOXES, LABELS, SCORES) if "Retina" in name else (LOGITS,)
    document = read_weights(f"torchvision:{name}")
    found = values(conclude(model_file(*outputs, shape=shape), Given(documents=[document]), []))
    assert found | expected == found
    assert len(found["labels"]) == {"DeepLabV3": 21, "RetinaNet": 90}.get(name.partition("_")[0], 1000)
