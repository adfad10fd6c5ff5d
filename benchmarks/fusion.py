"""What merging the boxes of eight views costs: each merge, against ensemble_boxes where that is installed.

The boxes are random: every view has every object, moved and resized by a few hundredths of its size, and some boxes of
its own. All boxes lie in one 1000x1000 frame. Runs on one core; where others use it too, read the quickest runs.
"""

import argparse
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tta_server.tasks.boxes.fusion import MERGES, Boxes, merge_boxes

SIDE = 1000
IOU = 0.55
THEIRS = {
    "wbf": "weighted_boxes_fusion",
    "nms": "nms",
    "soft_nms": "soft_nms",
    "nmw": "non_maximum_weighted",
}


def scene(seed: int, classes: int, views: int, objects: int, noise: int) -> list[Boxes]:
    """The boxes of each view, with sides of 20 to 200 pixels and scores of 0.05 to 1."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
        size = np.exp(rng.uniform(np.log(20), np.log(200), (count, 2)))
        return rng.uniform(0, SIDE, (count, 2)), size, rng.integers(0, classes, count)

    def view() -> Boxes:
        moved = center + rng.normal(0, 0.03, size.shape) * size
        resized = size * np.exp(rng.normal(0, 0.03, size.shape))
        other_center, other_size, other_label = draw(noise)
        middle, half = np.vstack((moved, other_center)), np.vstack((resized, other_size)) / 2
        score = np.append(confidence + rng.normal(0, 0.08, objects), rng.uniform(0.05, 0.5, noise))
        return Boxes(
            np.clip(np.hstack((middle - half, middle + half)), 0, SIDE).astype(np.float32),
            np.clip(score, 0.05, 1).astype(np.float32),
            np.append(label, other_label),
        )

    center, size, label = draw(objects)
    confidence = rng.uniform(0.3, 0.95, objects)
    return [view() for _ in range(views)]


def ours(merge: str, views: Sequence[Boxes]) -> Callable[[], object]:
    weights = [1.0] * len(views)
    return lambda: merge_boxes(merge, views, weights, lambda xyxy: np.ones((len(views), len(xyxy)), np.bool_), IOU)


def theirs(merge: str, views: Sequence[Boxes]) -> Callable[[], object]:
    import ensemble_boxes

    fuse = getattr(ensemble_boxes, THEIRS[merge])
    boxes, scores = [v.xyxy / SIDE for v in views], [v.score for v in views]
    return lambda: fuse(boxes, scores, [v.label for v in views], iou_thr=IOU)


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--noise", type=int, default=30, help="boxes of one view that no other sees")
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 3, 1])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each scene")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="ensemble_boxes")
    compared = importlib.util.find_spec("ensemble_boxes") is not None
    table = Table("merge", "classes", "ms, median", "ms, median of quickest", "ensemble_boxes")
    for merge in MERGES:
        for classes in args.classes:
            scenes = [scene(seed, classes, args.views, args.objects, args.noise) for seed in range(args.scenes)]
            runs = [[milliseconds(ours(merge, views)) for views in scenes] for _ in range(args.rounds)]
            median = statistics.median(ms for run in runs for ms in run)
            quickest = statistics.median(map(min, zip(*runs, strict=True)))
            cells = [merge, str(classes), f"{median:.1f}", f"{quickest:.1f}"]
            if compared:
                theirs(merge, scenes[0])()  # compiles
                cells.append(f"{statistics.median(milliseconds(theirs(merge, views)) for views in scenes[:3]):.0f}")
            table.add_row(*cells)
    Console().print(table)
    Console().print("target: wbf within 5 ms", highlight=False)


if __name__ == "__main__":
    main()
