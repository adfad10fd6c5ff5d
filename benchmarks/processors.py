"""What `init` concludes of Hugging Face's image processors: the plain view against each processor's own result.

Each processor is saved, read as `tta-server init` reads it, and run beside the preprocessing that its tta.yaml gives,
on images of random values and sizes. Needs `pip install transformers`; without torchvision its processors use Pillow.

    python benchmarks/processors.py [--images 200]
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.exports import FREE, VIT_CONFIG, classifier_of, write_export
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.documents import documents_beside
from tta_server.onboarding.draft import draft
from tta_server.onboarding.folder import write_folder
from tta_server.onboarding.model_file import read_model_file
from tta_server.repository.loader import load_model
from tta_server.views.geometry import Size
from tta_server.views.view import View

PROCESSORS: list[tuple[str, str, dict[str, Any]]] = [
    ("vit", "ViT", {}),
    ("deit", "DeiT", {"size": {"height": 224, "width": 224}}),
    ("deit", "DeiT", {}),
    ("beit", "Beit", {}),
    ("segformer", "Segformer", {}),
    ("clip", "CLIP", {}),
    ("siglip", "Siglip", {}),
    ("bit", "Bit", {}),
    ("pvt", "Pvt", {}),
    ("blip", "Blip", {}),
    ("mobilenet_v1", "MobileNetV1", {}),
    ("mobilenet_v2", "MobileNetV2", {}),
    ("convnext", "ConvNext", {}),
    ("convnext", "ConvNext", {"size": {"shortest_edge": 224}}),
    ("levit", "Levit", {}),
    ("mobilevit", "MobileViT", {"size": {"shortest_edge": 288}}),
    ("mobilevit", "MobileViT", {}),
    ("rt_detr", "RTDetr", {}),
    ("efficientnet", "EfficientNet", {}),
    ("poolformer", "PoolFormer", {}),
    ("detr", "Detr", {}),
    ("yolos", "Yolos", {}),
]
"""Module, name without its ending, and what differs from its defaults."""


def make(module: str, name: str, changes: dict[str, Any]) -> Any:
    """The processor that computes with Pillow and NumPy."""
    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{name}ImageProcessorPil")(**changes)


def preprocessing(processor: Any, folder: Path) -> Any:
    """As `init` concludes it, or the sentence of its refusal."""
    file = write_export(folder / "export", classifier_of(FREE), config_json=VIT_CONFIG)
    processor.save_pretrained(folder / "export")
    found = conclude(read_model_file(file), Given(), documents_beside(file))
    if found.refusals or found.choices:
        return "; ".join([*found.refusals, *(choice.key for choice in found.choices)])
    write_folder(folder / "model", file, file.read_bytes(), draft(found))
    return load_model(folder / "model").preprocessing


def compare(processor: Any, ours: Any, images: int) -> dict[str, Any]:
    """How many images give other values, and how many have a margin of the crop that is rounded in another way."""
    rng = np.random.default_rng(0)
    unequal = rounded = unexplained = 0
    for _ in range(images):
        image = rng.integers(0, 256, (*rng.integers(100, 700, 2), 3), dtype=np.uint8)
        size = Size(image.shape[1], image.shape[0])
        expected = np.asarray(processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"])[0]
        place = ours.place(View(), size)
        values = ours.empty(1, place.tensor)[0]
        ours.write(ours.canvas(image, 1.0), View(), place, values)
        differs = not np.array_equal(values, expected)
        odd = any((side - window) % 4 == 3 for side, window in zip(place.canvas, place.frame, strict=True))
        unequal, rounded, unexplained = unequal + differs, rounded + odd, unexplained + (differs != odd)
    return {"images": images, "unequal": unequal, "margin 3 mod 4": rounded, "unexplained": unexplained}


def lines(images: int) -> Iterator[dict[str, Any]]:
    for module, name, changes in PROCESSORS:
        processor = make(module, name, changes)
        with tempfile.TemporaryDirectory() as folder:
            ours = preprocessing(processor, Path(folder))
            found = {"refused": ours} if isinstance(ours, str) else compare(processor, ours, images)
        yield {"processor": name, **({"with": changes} if changes else {}), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    for line in lines(parser.parse_args().images):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
