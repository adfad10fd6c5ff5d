"""What `tta-server score` writes, read by the tools that the formats are for. Exits with 1 where a target is missed.

    pip install pycocotools pandas
    python benchmarks/scored_formats.py [--images 60]

COCO: of bloodcells, mouse and nuclei, each shard is read by `COCO`, the list of all results by `loadRes`, and scored by
`COCOeval` against themselves as the truth: 1 for each. Masks: RLE decoded by pycocotools, and encoded by it, against
the PNG of another run. Boxes: those of YOLO's text and of CSV against COCO's.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.server import DATA, MODELS

KINDS = {"bloodcells": "bbox", "mouse": "keypoints", "nuclei": "segm"}
EQUAL = 1 - 1e-9
CLOSE_PIXELS = 2e-3
"""Coordinates are rounded to thousandths, and shares to six digits."""


def score(images: Path, model: str, out: Path, name: str, *more: str) -> Path:
    words = [
        "--model",
        MODELS / model,
        "--out",
        out / f"{model}-{name}",
        "--format",
        name,
        "--batch",
        4,
        "--max-views",
        2,
        *more,
    ]
    words = [sys.executable, "-m", "tta_server", "score", images, *words]
    subprocess.run([*map(str, words)], check=True, capture_output=True)
    return out / f"{model}-{name}"


def some_images(data: Path, model: str, count: int, folder: Path) -> Path:
    """The first images, and a file that is none."""
    folder = folder / model
    (folder / "part").mkdir(parents=True)
    for path in islice(sorted((data / model / "images").iterdir()), count):
        (folder / "part" / path.name).symlink_to(path)
    (folder / "broken.jpg").write_text("no image")
    return folder


def check_coco(out: Path, model: str) -> bool:
    """Against itself a detector is perfect, if every number refers to what it should."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        (shard,) = (out / "results").iterdir()
        truth = COCO(str(shard))
        results = COCO(str(out / "images.json")).loadRes(str(out / "results.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(out / "results.json")), KINDS[model])
        evaluation.params.maxDets = [10_000]
        if model == "mouse":
            evaluation.params.kpt_oks_sigmas = np.full(4, 0.05)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    mean = float(precision[precision > -1].mean())
    failed = json.loads((out / "images.json").read_text())["failures"]
    print(f"coco, {model}: {len(results.anns)} results, {len(results.imgs)} images, precision {mean:.6f} (target 1)")
    return mean >= EQUAL and len(failed) == 1 and len(results.anns) == len(truth.anns)


def check_masks(png: Path, rle: Path, coco: Path) -> bool:
    """All three runs have the same masks, and pycocotools encodes them to the same text."""
    from pycocotools import mask as tools

    in_coco = {}
    for entry in json.loads((coco / "results.json").read_text()):
        in_coco[entry["image_id"], entry["category_id"]] = entry["segmentation"]["counts"]
    count, same = 0, True
    rows = zip(pq.read_table(png / "results").to_pylist(), pq.read_table(rle / "results").to_pylist(), strict=True)
    for image, (drawn, encoded) in enumerate(rows):
        if drawn["status"] == "failed":
            continue
        pixels = np.asarray(Image.open(BytesIO(drawn["mask"])))
        for index, (_, mask) in enumerate(encoded["masks"]):
            own = np.asfortranarray(pixels == index).astype(np.uint8, order="F")
            same &= np.array_equal(tools.decode(mask), own)
            same &= tools.encode(own)["counts"].decode() == mask["counts"]
            same &= in_coco.get((image, index + 1), mask["counts"]) == mask["counts"]
            count += 1
    print(f"masks: {count} decoded by pycocotools, and encoded by it to the same text: {same}")
    return bool(same) and count > 0


def check_boxes(coco: Path, yolo: Path, table: Path) -> bool:
    import pandas as pd

    images = {entry["file_name"]: entry for entry in json.loads((coco / "images.json").read_text())["images"]}
    by_id = {entry["id"]: name for name, entry in images.items()}
    expected: dict[str, list[Any]] = {name: [] for name in images}
    for entry in json.loads((coco / "results.json").read_text()):
        x, y, w, h = entry["bbox"]
        expected[by_id[entry["image_id"]]].append([entry["category_id"] - 1, x, y, x + w, y + h, entry["score"]])
    found = pd.concat(pd.read_csv(path) for path in sorted((table / "results").iterdir()))
    columns = ["index", "left", "top", "right", "bottom", "score"]
    boxes = {name: rows[columns].dropna().to_numpy() for name, rows in found[found.status == "ok"].groupby("id")}
    worst = max(_distance(boxes[name], rows) for name, rows in expected.items())
    worst = max(worst, max(_distance(_yolo_boxes(yolo, images[name]), rows) for name, rows in expected.items()))
    count = sum(map(len, expected.values()))
    print(f"boxes: {count} in COCO, CSV and YOLO, largest difference {worst:.2g} (target {CLOSE_PIXELS})")
    return worst <= CLOSE_PIXELS and set(boxes) == set(images) and found.status.eq("failed").sum() == 1


def _yolo_boxes(yolo: Path, image: dict[str, Any]) -> np.ndarray:
    """The label file where Ultralytics looks for it, in pixels."""
    with tarfile.open(yolo / "results" / "part-00000.tar") as archive:
        file = archive.extractfile("labels/" + str(Path(image["file_name"]).with_suffix(".txt")))
        assert file
        rows = np.array([line.split() for line in file.read().decode().splitlines()], float).reshape(-1, 6)
    center, half = rows[:, 1:3] * _size(image), rows[:, 3:5] * _size(image) / 2
    return np.column_stack([rows[:, 0], center - half, center + half, rows[:, 5]])


def _size(image: dict[str, Any]) -> np.ndarray:
    return np.array([image["width"], image["height"]], float)


def _distance(found: Any, expected: Any) -> float:
    found, expected = np.reshape(found, (-1, 6)), np.reshape(expected, (-1, 6))
    return float(np.abs(found - expected).max(initial=0)) if found.shape == expected.shape else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = {model: some_images(args.data, model, args.images, folder) for model in KINDS}
        coco = {model: score(images[model], model, folder, "coco") for model in KINDS}
        met = [check_coco(out, model) for model, out in coco.items()]
        drawn = score(images["nuclei"], "nuclei", folder, "parquet")
        encoded = score(images["nuclei"], "nuclei", folder / "rle", "parquet", "--masks", "rle")
        met.append(check_masks(drawn, encoded, coco["nuclei"]))
        boxes = [score(images["bloodcells"], "bloodcells", folder, name) for name in ("yolo", "csv")]
        met.append(check_boxes(coco["bloodcells"], *boxes))
    raise SystemExit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
