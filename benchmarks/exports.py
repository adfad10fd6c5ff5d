"""Kinds of export as people make them: what `tta-server init` needs, and whether the model is served right.

Each model has random weights of the library's own code, exported with its usual exporter, with the files that the
exporter writes beside it. `init` runs as a user runs it. Keys that it leaves open are answered from what a user of the
library knows, and counted. Then a real image is predicted, and compared with the library's own pre- and postprocessing.
An answer counts only if the library's own changes when red and blue are swapped. Exits with 1 if fewer than 16 are
served right, one is served wrong, or one of YOLO's masks and poses is not refused by name.

    pip install torch torchvision timm transformers onnx onnxscript ultralytics, and YOLOX's sdist on PYTHONPATH
    python benchmarks/exports.py [--image FILE] [--only NAME]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from benchmarks.export_kinds.kinds import Export, Kind, Pixels
from tta_server import TTAError, load

ROOT = Path(__file__).parents[1]
IMAGE = ROOT.parent / "shared" / "data" / "bloodcells" / "images" / "BloodImage_00000.jpg"
LEAST_RIGHT = 16
RIGHT, REFUSED, WRONG, OPEN, SKIPPED = "served right", "refused by name", "WRONG", "left open", "not made"
KINDS = (
    Kind("timm classifier", "timm", "classifier"),
    Kind("Hugging Face ViT classifier", "transformers", "vit"),
    Kind("Hugging Face ConvNeXT classifier", "transformers", "convnext"),
    Kind("torchvision ResNet", "torchvision", "resnet"),
    Kind("Ultralytics YOLOv8 detect", "ultralytics", "detect"),
    Kind("Ultralytics YOLO11 detect, nms", "ultralytics", "detect_nms"),
    Kind("Ultralytics YOLO11 classify", "ultralytics", "classify"),
    Kind("Ultralytics YOLO11 segment", "ultralytics", "segment"),
    Kind("Ultralytics YOLO11 pose", "ultralytics", "pose"),
    Kind("YOLOX raw", "yolox", "raw"),
    Kind("YOLOX decoded", "yolox", "decoded"),
    Kind("Hugging Face DETR, pixel_mask", "transformers", "detr"),
    Kind("Hugging Face YOLOS", "transformers", "yolos"),
    Kind("Hugging Face RT-DETR", "transformers", "rt_detr"),
    Kind("Hugging Face SegFormer", "transformers", "segformer"),
    Kind("Hugging Face Mask2Former", "transformers", "mask2former"),
    Kind("torchvision DeepLabV3", "torchvision", "deeplab"),
    Kind("torchvision Faster R-CNN", "torchvision", "faster_rcnn"),
    Kind("Hugging Face DINOv2", "transformers", "dinov2"),
)
MORE = (
    Kind("Ultralytics YOLO26 detect, end2end", "ultralytics", "detect_end2end"),
    Kind("Hugging Face CLIP vision", "transformers", "clip"),
)
"""Beside the 19."""


@dataclass(frozen=True, slots=True)
class Row:
    """`asked` are the keys that `init` left open, `stated` those that had to be stated though it did not ask."""

    kind: str
    verdict: str
    asked: Sequence[str] = ()
    remark: str = ""
    stated: Sequence[str] = ()

    @property
    def line(self) -> str:
        asked = f"; asked for {', '.join(self.asked)}" if self.asked else ""
        stated = f"; unasked: {', '.join(self.stated)}" if self.stated else ""
        return f"{self.kind}: {self.verdict}{asked}{stated}{f'; {self.remark[:400]}' if self.remark else ''}"


@dataclass(frozen=True, slots=True)
class Init:
    """One run of `tta-server init`."""

    status: int
    asked: Sequence[str]
    text: str

    @property
    def advised(self) -> set[str]:
        """Keys that a refusal names."""
        return set(re.findall(r"(?:input|output)\.[a-z_]+", self.text)) if self.status > 1 else set()


def run_init(export: Export, models: Path, answered: Sequence[str]) -> Init:
    models.parent.mkdir(parents=True, exist_ok=True)
    labels = models.parent / "labels.txt"
    labels.write_text("".join(f"{label}\n" for label in export.labels))
    values = {key: export.answers[key] for key in answered} | export.stated
    command = [sys.executable, "-m", "tta_server", "init", str(export.model), "--models", str(models)]
    command += ["--name", "model", "--force", *export.options, *(["--labels", str(labels)] if export.labels else [])]
    command += [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "10000", "NO_COLOR": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=models.parent)
    return Init(ran.returncode, re.findall(r"^  ([a-z_.]+): ", ran.stderr, re.M), " ".join(ran.stderr.split()))


def complete(export: Export, models: Path) -> tuple[Init, list[str]]:
    """Run `init`, and again with answers to what it asks or advises, until that has no answer."""
    answered: list[str] = []
    while True:
        found = run_init(export, models, answered)
        new = [key for key in export.answers if key not in answered and (key in found.asked or key in found.advised)]
        if not found.status or not new:
            return found, answered
        answered += new


def judge(kind: Kind, folder: Path, image: Pixels) -> Row:
    try:
        export: Export = getattr(import_module(f"benchmarks.export_kinds.{kind.module}"), kind.make)(folder / "export")
    except ImportError as error:
        return Row(kind.name, SKIPPED, remark=str(error))
    return judge_export(kind.name, export, folder, image)


def judge_export(name: str, export: Export, folder: Path, image: Pixels) -> Row:
    """Run `init` on it, and compare what the model then answers."""
    row = _judged(name, export, folder, image)
    return replace(row, stated=list(export.stated))


def _judged(name: str, export: Export, folder: Path, image: Pixels) -> Row:
    found, answered = complete(export, folder / "models")
    if "Traceback" in found.text:
        return Row(name, WRONG, answered, f"init ended with {found.text[-300:]}")
    if found.status == 1:
        return Row(name, OPEN, answered, f"no answer for {', '.join(found.asked)}; {found.text}")
    if found.status:
        return Row(name, REFUSED if export.refused in found.text else WRONG, answered, found.text)
    if export.expected is None:
        return Row(name, WRONG, answered, f"served, though it should be refused: {export.refused}")
    return compare(name, export, folder / "models" / "model", answered, image if export.image is None else export.image)


def compare(name: str, export: Export, model: Path, answered: Sequence[str], image: Pixels) -> Row:
    """The server's answer for the plain view with the library's."""
    assert export.expected is not None
    expected = export.expected(image)
    blind = not expected.differs(export.expected(np.ascontiguousarray(image[..., ::-1])))
    try:
        with load(model) as loaded:
            answer = loaded.predict(image, max_views=1)
    except TTAError as error:
        return Row(name, REFUSED, answered, str(error))
    difference = expected.differs(expected.like(answer, _least(model)))
    if difference:
        return Row(name, WRONG, answered, difference)
    return Row(name, WRONG if blind else RIGHT, answered, "swapped colours give the same" if blind else "")


def _least(model: Path) -> float:
    """The least score that the server answers."""
    found = yaml.safe_load((model / "tta.yaml").read_text())
    return float(found.get("output", {}).get("min_score", 0.05))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    args = parser.parse_args()
    image = np.asarray(Image.open(args.image).convert("RGB"))
    console, rows = Console(highlight=False, soft_wrap=True, markup=False), []
    for kind in (*KINDS, *MORE):
        if args.only.lower() in kind.name.lower():
            with tempfile.TemporaryDirectory() as folder:
                row = judge(kind, Path(folder), image)
            rows.append((kind, row))
            console.print(row.line)
    counted = [row for kind, row in rows if kind in KINDS]
    right, wrong = (sum(row.verdict == verdict for row in counted) for verdict in (RIGHT, WRONG))
    console.print(f"{right} of {len(counted)} served right (target {LEAST_RIGHT}), {wrong} wrong (target 0)")
    return 0 if right >= LEAST_RIGHT and not any(row.verdict == WRONG for _, row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
