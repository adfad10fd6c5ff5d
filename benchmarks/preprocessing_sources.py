"""The plain view against the preprocessing of other libraries, their own code run beside it on random images.

Each source has the block `input` of tta.yaml that stands for it. Where its library is not installed it is skipped; for
YOLOX unpack its sdist (`pip download --no-deps --no-binary :all: yolox`) and put that on PYTHONPATH. Sources that can't
be equal say why, and how far apart the values are. Exits with 1 where one that can has another size or value.

    pip install torchvision timm transformers ultralytics segment-anything mmcv-lite mmengine
    python benchmarks/preprocessing_sources.py [--images 200] [--only NAME]
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from benchmarks.library_preprocessing import LIBRARIES, Pixels, Values
from tests.support.exports import FREE, classifier_of, write_export
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.loader import load_model
from tta_server.views.geometry import Size
from tta_server.views.view import View

SEED = 17
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OF_RGB = {"scale": 1, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
OF_BGR = {"color": "BGR", "scale": 1, "mean": [103.53, 116.28, 123.675]}
IMAGENET = {"mean": MEAN, "std": STD}
CAPPED = {"size": "free", "resize": 800, "max_long_side": 1333}
SAM = {"size": [1024, 1024], "resize": "letterbox", "rounding": "half_up", "letterbox_anchor": "top_left"}


@dataclass(frozen=True, slots=True)
class Source:
    """A library's preprocessing, what tta.yaml has for it, and why they can't be equal, if they can't."""

    name: str
    library: str
    input: dict[str, Any]
    apart: str = ""
    sides: tuple[int, int] = (40, 1600)


SOURCES = (
    Source("torchvision, ResNet50_Weights", "weights", {"size": [224, 224], "resize": 232, **IMAGENET}),
    Source("torchvision, Resize(800, max_size=1333)", "capped", CAPPED),
    Source(
        "timm, center, bicubic, 0.875",
        "timm_center",
        {"size": [224, 224], "resize": 256, "interpolation": "bicubic", **IMAGENET},
    ),
    Source(
        "timm, squash",
        "timm_squash",
        {"size": [224, 192], "resize": "exact", "crop_from": [248, 213], "interpolation": "bicubic", **IMAGENET},
    ),
    Source(
        "timm, not square",
        "timm_cover",
        {"size": [160, 240], "resize": "cover", "crop_from": [177, 266], "interpolation": "bicubic", **IMAGENET},
    ),
    Source(
        "transformers, DETR with Pillow",
        "detr",
        {**CAPPED, "size_like": "transformers", **IMAGENET},
        sides=(100, 900),
    ),
    Source(
        "Ultralytics, LetterBox 640", "letterbox", {"size": [640, 640], "resize": "letterbox", "resize_like": "opencv"}
    ),
    Source(
        "Ultralytics, LetterBox 384x672",
        "letterbox_wide",
        {"size": [384, 672], "resize": "letterbox", "resize_like": "opencv"},
    ),
    Source("Ultralytics, classify", "ultralytics_classify", {"size": [224, 224], "resize": 224}),
    Source(
        "YOLOX, preproc",
        "yolox",
        {
            "size": [416, 640],
            "resize": "letterbox",
            "resize_like": "opencv",
            "rounding": "floor",
            "letterbox_anchor": "top_left",
            "color": "BGR",
            "scale": 1,
        },
    ),
    Source(
        "MMDetection, Resize (1333, 800), pad to 32",
        "mmdet",
        {**CAPPED, "size_like": "mmdetection", "resize_like": "opencv", "multiple": 32, "pad": "zeros", **OF_RGB},
    ),
    Source(
        "MMDetection, RTMDet: Resize, Pad 640",
        "rtmdet",
        {
            "size": [640, 640],
            "resize": "letterbox",
            "resize_like": "opencv",
            "rounding": "half_up",
            "letterbox_anchor": "top_left",
            **OF_BGR,
            "std": [57.375, 57.12, 58.395],
        },
    ),
    Source(
        "MMSegmentation, Resize (2048, 512)",
        "mmseg",
        {"size": "free", "resize": 512, "max_long_side": 2048, "size_like": "mmdetection", "resize_like": "opencv"}
        | {"max_size": 2048, **OF_RGB},
    ),
    Source(
        "detectron2, ResizeShortestEdge (rule from its source), pad to 32",
        "detectron2",
        {**CAPPED, "size_like": "detectron2", "multiple": 32, "pad": "zeros", **OF_BGR},
    ),
    Source("SAM, ResizeLongestSide, pad", "sam", {**SAM, "letterbox_fill": "zeros", **OF_RGB}),
    Source(
        "torchvision, resize of a tensor, antialias=False",
        "tensor_plain",
        {"size": [224, 320], "resize": "exact", "resize_like": "torch"},
        "the order in which torch adds depends on the CPU and its threads",
    ),
    Source(
        "torchvision v2, uint8 tensor with antialias",
        "tensor_antialiased",
        {"size": [224, 320], "resize": "exact"},
        "computes in integers of its own precision; no key gives that",
    ),
    Source(
        "torchvision, GeneralizedRCNNTransform",
        "rcnn",
        {**CAPPED, "resize_like": "torch", "multiple": 32, "pad": "zeros", **IMAGENET},
        "resizes normalised floats, never rounded to bytes, and floors both sides; its exports do it in the graph",
    ),
)


def ours(source: Source, folder: Path) -> Preprocessing:
    """As tta.yaml gives it."""
    config = {"task": "classification", "labels": ["a", "b", "c"], "input": source.input, "output": {"kind": "logits"}}
    write_export(folder / "1", classifier_of(FREE))
    (folder / "tta.yaml").write_text(yaml.safe_dump(config))
    return load_model(folder).preprocessing


def plain(preprocessing: Preprocessing, image: Pixels) -> Values:
    """The plain view of an image, (C, H, W)."""
    place = preprocessing.place(View(), Size(image.shape[1], image.shape[0]))
    values = preprocessing.empty(1, place.tensor)[0]
    preprocessing.write(preprocessing.canvas(image, 1.0), View(), place, values)
    return np.asarray(values)


def photos(source: Source, count: int) -> Iterator[Pixels]:
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        height, width = rng.integers(*source.sides, 2)
        yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@dataclass(slots=True)
class Found:
    """Images by how they compare, and the largest difference of a value where sizes are equal."""

    images: int = 0
    equal: int = 0
    resized: int = 0
    most: float = 0.0

    def add(self, found: Values, expected: Values) -> None:
        self.images += 1
        if found.shape != expected.shape:
            self.resized += 1
            return
        self.equal += bool(np.array_equal(found, expected))
        self.most = max(self.most, float(np.abs(found - expected).max()))

    @property
    def text(self) -> str:
        different = f", {self.resized} of another size" if self.resized else ""
        apart = f", values up to {self.most:.3g} apart" if self.most else ""
        return f"{self.equal} of {self.images} equal to the bit{different}{apart}"


def compare(source: Source, images: int) -> Found | str:
    """What was found, or why nothing was."""
    try:
        library = LIBRARIES[source.library]()
    except ImportError as error:
        return f"skipped: {error}"
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        preprocessing = ours(source, Path(folder))
        for image in photos(source, images):
            found.add(plain(preprocessing, image), library(image))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", default="", help="sources whose name has this in it")
    args = parser.parse_args()
    console, missed = Console(highlight=False, soft_wrap=True, markup=False), 0
    for source in SOURCES:
        if args.only.lower() not in source.name.lower():
            continue
        found = compare(source, args.images)
        if isinstance(found, str):
            console.print(f"{source.name}: {found}")
            continue
        wrong = found.equal < found.images and not source.apart
        missed += wrong
        verdict = f"not reproducible: {source.apart}" if source.apart else "MISSED" if wrong else "met"
        console.print(f"{source.name}: {found.text}: {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
