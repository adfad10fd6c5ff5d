"""Labelled images for measuring accuracy, from the folder --data; none of them is in this repository."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """An image file and its truth.

    A class's number, a mask's file, boxes [(label, x1, y1, x2, y2)], points {label: (x, y)}, or a count; coordinates in
    pixels of the image.
    """

    path: Path
    label: Any


def classes(folder: Path, labels: Sequence[str]) -> list[Sample]:
    """Images in a folder for each class."""
    return [
        Sample(path, index) for index, label in enumerate(labels) for path in sorted((folder / label).glob("*.jpg"))
    ]


def nuclei(folder: Path, split: str) -> list[Sample]:
    """Images with masks."""
    rows = csv.DictReader((folder / "index.csv").open())
    return [
        Sample(folder / "images" / f"{row['id']}.png", folder / "labels" / f"{row['id']}.png")
        for row in rows
        if row["split"] == split
    ]


def counts(folder: Path, split: str) -> list[Sample]:
    """Images with the number of nuclei."""
    rows = csv.DictReader((folder / "index.csv").open())
    return [Sample(folder / "images" / f"{row['id']}.png", int(row["nuclei"])) for row in rows if row["split"] == split]


def blood_smears(folder: Path, split: str) -> list[Sample]:
    """Images with boxes."""
    boxes: dict[str, list[tuple[str, float, float, float, float]]] = {}
    for row in csv.DictReader((folder / "boxes.csv").open()):
        corners = [float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")]
        boxes.setdefault(row["file"], []).append((row["label"], *corners))
    rows = csv.DictReader((folder / "index.csv").open())
    return [
        Sample(folder / "images" / row["file"], boxes.get(row["file"], [])) for row in rows if row["split"] == split
    ]


def mice(folder: Path, split: str) -> list[Sample]:
    """Images with four points each."""
    names = ("snout", "leftear", "rightear", "tailbase")
    rows = [row for row in csv.DictReader((folder / "points.csv").open()) if row["split"] == split]
    return [
        Sample(folder / "images" / row["file"], {n: (float(row[f"{n}_x"]), float(row[f"{n}_y"])) for n in names})
        for row in rows
    ]
