"""What `tta-server init --images` concludes of the bundled models, on their labelled images without the labels.

All candidates are run on the same images; what is concluded from 300 or 32 of them, or of few classes, is of parts of
them. The rank is that of the model's own preprocessing by the score, of the 42 or 14 candidates, without CIFAR's mean
for clothing and with it for cifar10; the median of several draws. Exits with 1 where a target is missed.
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.server import MODELS, ROOT
from tta_server.backends import RunOptions
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.cli.files import find_images
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.measured import classes
from tta_server.onboarding.measured.boxes import BoxMeasurement
from tta_server.onboarding.measured.candidates import Candidate, find_candidates
from tta_server.onboarding.measured.classes import ClassMeasurement
from tta_server.onboarding.measured.images import read_images
from tta_server.onboarding.measured.kinds import measure_kind
from tta_server.onboarding.model_file import read_model_file
from tta_server.repository.loader import load_model
from tta_server.serving.cores import available_cores

IMAGES, FEW, DRAWS = 300, 32, 9
POOL = {"clothing": 372, "cifar10": 1500}
"""Images that are run, of which parts are drawn."""
TRUTHS = {"clothing": Candidate("RGB", 146, "ImageNet"), "cifar10": Candidate("RGB", "exact", "CIFAR")}
RANKS = {"clothing": {IMAGES: 2, FEW: 3}, "cifar10": {IMAGES: 1, FEW: 1}}
"""Of the truth, as an earlier measurement had them."""
WITHOUT = {"clothing": "CIFAR", "cifar10": None}
SETTLED = {
    "clothing": {"input.color": "RGB", "input.resize": 146, "input.scale": 255},
    "cifar10": {"input.color": "RGB", "input.scale": 255},
}
NARROW = {"clothing": ["t-shirt", "pants"], "cifar10": ["airplane", "ship dog horse", "dog cat"]}
"""Images of these classes only, of which nothing may be concluded."""


def collected(name: str, data: Path) -> tuple[ClassMeasurement, list[str]]:
    """The measurement of a model on its images, and the class of each."""
    file, config = read_model_file(MODELS / name / "1" / "model.onnx"), load_model(MODELS / name).config
    stated: dict[str, Any] = {"task": "classification", "input.size": list(config.input.size), "input.layout": "NCHW"}
    if name == "cifar10":
        stated["input.resize"] = "exact"  # images and input are 32x32
    stated |= {each.key: each.value for each in measure_kind(file, stated) if isinstance(each, Fact)}
    backend = OnnxRuntimeBackend(file.path, RunOptions(threads=available_cores()))
    found = ClassMeasurement(backend, stated, find_candidates(stated, file))
    paths = find_images(data, POOL[name])
    for raster in read_images(paths, lambda each: track(each, name)):
        found.add(raster)
    return found, [path.parent.name for path in paths]


def part(found: ClassMeasurement, chosen: Sequence[int]) -> ClassMeasurement:
    """The same of some images."""
    some = copy.copy(found)
    some._found = [[each[index] for index in chosen] for each in found._found]
    return some


def rank(found: ClassMeasurement, name: str) -> int:
    """Of the truth, 1 for the best."""
    candidates = [
        (score, each)
        for score, each in zip(found.scores().all, found._candidates, strict=True)
        if each.normalization != WITHOUT[name]
    ]
    truth = next(score for score, each in candidates if each == TRUTHS[name])
    return 1 + int(sum(score > truth for score, _ in candidates))


def facts(found: ClassMeasurement) -> dict[str, Any]:
    return {each.key: each.value for each in found.findings() if isinstance(each, Fact)}


def report(console: Console, about: str, found: Any, target: Any, met: bool) -> bool:
    verdict = "met" if met else "MISSED"
    console.print(f"{about}: {found}; target {target}: {verdict}", markup=False, highlight=False, soft_wrap=True)
    return met


def check_classifier(console: Console, name: str, data: Path) -> bool:
    found, labels = collected(name, data)
    met, random = True, np.random.default_rng(0)
    for count, target in RANKS[name].items():
        draws = [part(found, random.choice(found.images, count, replace=False).tolist()) for _ in range(DRAWS)]
        ranks = sorted(rank(each, name) for each in draws)
        about = f"{name}, {DRAWS} draws of {count} images"
        median = statistics.median(ranks)
        met &= report(console, f"{about}, ranks {ranks}, median", median, f"<= {target}", median <= target)
        concluded = [facts(each) for each in draws]
        wrong = sum(SETTLED[name].get(key, value) != value for each in concluded for key, value in each.items())
        met &= report(console, f"{about}, wrong facts", wrong, 0, wrong == 0)
        right = sum(each == SETTLED[name] for each in concluded)
        if count == IMAGES:
            met &= report(console, f"{about}, {SETTLED[name]} concluded in", right, DRAWS - 1, right >= DRAWS - 1)
    for group in NARROW[name]:
        chosen = [index for index, label in enumerate(labels) if label in group.split()][:IMAGES]
        narrow = facts(part(found, chosen))
        met &= report(console, f"{name}, {len(chosen)} images of {group}, concluded", narrow, {}, not narrow)
    return met


def check_detector(console: Console, data: Path) -> bool:
    model = load_model(MODELS / "bloodcells")
    found = BoxMeasurement(model)
    for raster in read_images(find_images(data), lambda each: track(each, "bloodcells")):
        found.add(raster)
    (finding,) = found.findings()
    is_right = isinstance(finding, Fact) and finding.value == "RGB"
    return report(console, "bloodcells, input.color", finding, "RGB", is_right)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", choices=["clothing", "cifar10", "bloodcells"])
    args = parser.parse_args()
    console, met = Console(), True
    classes.FIRST = sum(POOL.values())  # all candidates on all images, for the ranks
    for name, folder in (("clothing", "clothing/test"), ("cifar10", "cifar10")):
        if args.only in (None, name):
            met &= check_classifier(console, name, args.data / folder)
    if args.only in (None, "bloodcells"):
        met &= check_detector(console, args.data / "bloodcells" / "images")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
