"""timm's config.json: `pretrained_cfg`, or the same keys at the top.

Preprocessing is that of timm.data.create_transform for evaluation: the short side is floor(size / crop_pct), then a
centre crop; `squash` resizes both sides to that.
"""

from collections.abc import Iterator
from math import floor

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.readers.fields import Fields, Number, Ratio, Side, read_fields
from tta_server.onboarding.readers.labels import label_facts
from tta_server.onboarding.readers.shapes import pytorch_layout

CROP, INTERPOLATION = 0.875, "bicubic"
"""timm's defaults."""
RESIZES = {"center": "cover", "squash": "exact"}
"""crop_mode -> input.resize, where it is no short side."""
INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos", "nearest": "nearest"} | {
    "random": "bilinear"
}


class _Config(Fields):
    num_classes: int | None = None
    label_names: list[str] | None = None
    label_descriptions: dict[str, str] | None = None
    input_size: tuple[int, Side, Side] | None = None
    test_input_size: tuple[int, Side, Side] | None = None
    crop_pct: Ratio | None = None
    test_crop_pct: Ratio | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: list[Number] | None = None
    std: list[Number] | None = None


def read_timm(evidence: Evidence) -> Iterator[Finding]:
    """The facts of a classifier, or of a network without its classes."""
    found = evidence.document("pretrained_cfg", "input_size")
    if found is None:
        return
    name, content = found
    inner = content.get("pretrained_cfg")
    config = read_fields(_Config, "task", name, {**(inner if isinstance(inner, dict) else {}), **content})
    if isinstance(config, Refusal):
        yield config
        return
    if config.input_size is None:
        return
    yield from _classes(name, config)
    yield from pytorch_layout(evidence.file, f"{name}: timm's models")
    yield Fact("input.color", "grey" if config.input_size[0] == 1 else "RGB", f"{name}: input_size")
    yield Fact("input.scale", 255, f"{name}: timm divides by 255")
    for key, values in (("mean", config.mean), ("std", config.std)):
        if values:
            yield Fact(f"input.{key}", values, f"{name}: {key}")
    yield from _resize(name, config, evidence.file.size(evidence.file.layout or "NCHW"))
    yield from _interpolation(name, config)


def _classes(name: str, config: _Config) -> Iterator[Finding]:
    if config.num_classes == 0:
        yield Fact("task", "embedding", f"{name}: num_classes is 0")
        return
    yield Fact("task", "classification", f"{name}: timm's models with classes")
    yield Fact("output.kind", "logits", f"{name}: timm's models end with a linear layer")
    yield Note(f"{name}: timm does not state whether several classes may be true together; one is assumed")
    if config.label_names:
        known = config.label_descriptions or {}
        yield from label_facts([known.get(each, each) for each in config.label_names], f"{name}: label_names")


def _resize(name: str, config: _Config, stated: tuple[int | None, int | None]) -> Iterator[Finding]:
    chosen = _size(config, stated)
    if chosen is None:
        yield Refusal(
            "input.resize",
            f"{name}: input_size is {list(config.input_size or ())}, but the model file takes {list(stated)}, so that "
            "the size before the crop is not known; state it with --set input.resize=N",
        )
        return
    key, size, crop = chosen
    mode, sides = config.crop_mode or "center", [floor(side / crop) for side in size]
    yield Fact("input.size", size, f"{name}: {key}")
    how = f"{name}: crop_pct {crop:g}, crop_mode {mode}"
    if mode == "center" and sides[0] == sides[1]:
        yield Fact("input.resize", sides[0], how)
    elif mode in RESIZES:
        yield Fact("input.resize", RESIZES[mode], how)
        if sides != size or mode == "center":
            yield Fact("input.crop_from", sides, how)
    else:
        yield Refusal("input.resize", f"{name}: crop_mode {mode} can't be stated in tta.yaml; {', '.join(RESIZES)} can")


def _interpolation(name: str, config: _Config) -> Iterator[Finding]:
    yield Fact("input.resize_like", "pillow", f"{name}: timm resizes with Pillow")
    interpolation = config.interpolation or INTERPOLATION
    if interpolation in INTERPOLATIONS:
        yield Fact("input.interpolation", INTERPOLATIONS[interpolation], f"{name}: interpolation")
    else:
        yield Refusal("input.interpolation", f"{name}: interpolation {interpolation!r} can't be stated in tta.yaml")


def _size(config: _Config, stated: tuple[int | None, int | None]) -> tuple[str, list[int], float] | None:
    """The key that has the file's size, the size and its crop; None if neither has it."""
    usual = config.crop_pct or CROP
    options = [
        ("input_size", config.input_size, usual),
        ("test_input_size", config.test_input_size, config.test_crop_pct or usual),
    ]
    for key, shape, crop in options:
        size = list(shape[1:]) if shape else []
        if size and all(side in (None, own) for side, own in zip(stated, size, strict=True)):
            return key, size, crop
    return None
