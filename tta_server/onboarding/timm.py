"""timm's config.json: `pretrained_cfg`, or the same keys at the top.

Preprocessing is that of timm.data.create_transform for evaluation: the short side is floor(size / crop_pct), then a
centre crop; `squash` resizes both sides to that.
"""

from collections.abc import Iterator, Mapping
from math import floor
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Refusal
from tta_server.onboarding.labels import label_facts

CROP, INTERPOLATION = 0.875, "bicubic"
"""timm's defaults."""
INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos", "nearest": "nearest"} | {
    "random": "bilinear"
}


def read_timm(evidence: Evidence) -> Iterator[Finding]:
    """The facts of a classifier, or of a network without its classes."""
    found = evidence.document("pretrained_cfg", "crop_pct", "input_size")
    if found is None:
        return
    name, content = found
    config = {**content, **(content.get("pretrained_cfg") or {})}
    if len(config.get("input_size") or ()) != 3:
        return
    yield from _classes(name, config)
    yield Fact("input.layout", "NCHW", f"{name}: timm's models")
    yield Fact("input.color", "grey" if config["input_size"][0] == 1 else "RGB", f"{name}: input_size")
    yield Fact("input.scale", 255, f"{name}: timm divides by 255")
    for key in ("mean", "std"):
        if config.get(key):
            yield Fact(f"input.{key}", list(config[key]), f"{name}: {key}")
    yield from _resize(name, config, evidence.file.size("NCHW"))


def _classes(name: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    if config.get("num_classes") == 0:
        yield Fact("task", "embedding", f"{name}: num_classes is 0")
        return
    yield Fact("task", "classification", f"{name}: timm's models with classes")
    yield Fact("output.kind", "logits", f"{name}: timm's models end with a linear layer")
    names = config.get("label_names")
    if isinstance(names, list):
        described = config.get("label_descriptions")
        known = described if isinstance(described, dict) else {}
        yield from label_facts([known.get(each, each) for each in names], f"{name}: label_names")


def _resize(name: str, config: Mapping[str, Any], stated: tuple[int | None, int | None]) -> Iterator[Finding]:
    chosen = _size(config, stated)
    if chosen is None:
        yield Refusal(
            "input.resize",
            f"{name}: input_size is {config['input_size']}, but the model file takes {list(stated)}, so that the size "
            "before the crop is not known; state it with --set input.resize=N",
        )
        return
    key, size, crop = chosen
    mode, sides = config.get("crop_mode") or "center", [floor(side / crop) for side in size]
    yield Fact("input.size", size, f"{name}: {key}")
    how = f"{name}: crop_pct {crop:g}, crop_mode {mode}"
    if mode == "squash" and sides == size:
        yield Fact("input.resize", "exact", how)
    elif mode == "center" and sides[0] == sides[1]:
        yield Fact("input.resize", sides[0], how)
    else:
        yield Refusal(
            "input.resize",
            f"{how} and {key} {size}: the image is resized to {sides} in a way that tta.yaml can't state yet; it has "
            "the short side with a square centre crop, and exact sizes without a crop",
        )
    interpolation = config.get("interpolation") or INTERPOLATION
    if interpolation in INTERPOLATIONS:
        yield Fact("input.interpolation", INTERPOLATIONS[interpolation], f"{name}: interpolation")
    else:
        yield Refusal("input.interpolation", f"{name}: interpolation {interpolation!r} can't be stated in tta.yaml")


def _size(config: Mapping[str, Any], stated: tuple[int | None, int | None]) -> tuple[str, list[int], float] | None:
    """The key that has the file's size, the size and its crop; None if neither has it."""
    usual = config.get("crop_pct") or CROP
    options = [("input_size", usual), ("test_input_size", config.get("test_crop_pct") or usual)]
    for key, crop in options:
        size = [int(side) for side in (config.get(key) or ())[1:]]
        if size and all(side in (None, own) for side, own in zip(stated, size, strict=True)):
            return key, size, float(crop)
    return None
