"""Hugging Face's preprocessor_config.json, or `image_processor` of processor_config.json.

Rules that the files do not state, but the processors' code has, are entries of `FAMILIES`. Fields that a file lacks
are not guessed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.readers.fields import Fields, Number, Ratio, Side, read_fields

RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers that tta.yaml has a word for."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the code of a processor adds to its fields.

    `short_int` says that a size of one number is the short side's; `crops` that do_center_crop is a field, and
    `normalizes` that do_normalize is one; `enlarges` is what a centre crop's side is divided by to get the short side,
    `whole_from` the side from which on the image is squashed instead. `flips` means BGR. `caps` says that a longest
    edge limits the short side's resize. `multiple` is the usual size_divisor, to which sizes are enlarged.
    """

    short_int: bool = False
    crops: bool = True
    enlarges: float | None = None
    whole_from: int | None = None
    flips: bool = False
    caps: bool = False
    normalizes: bool = True
    multiple: int = 1


FAMILIES: Mapping[str, Family] = {
    "ViT": Family(crops=False),
    "Segformer": Family(crops=False),
    "MaskFormer": Family(crops=False, multiple=32),
    "Mask2Former": Family(crops=False, multiple=32),
    "RTDetr": Family(crops=False),
    "Detr": Family(crops=False, caps=True),
    "ConditionalDetr": Family(crops=False, caps=True),
    "DeformableDetr": Family(crops=False, caps=True),
    "DeiT": Family(),
    "Beit": Family(),
    "Pvt": Family(crops=False),
    "Blip": Family(crops=False),
    "Siglip": Family(crops=False),
    "CLIP": Family(short_int=True),
    "Bit": Family(short_int=True),
    "MobileNetV1": Family(short_int=True),
    "MobileNetV2": Family(short_int=True),
    "ConvNext": Family(short_int=True, crops=False, enlarges=0.875, whole_from=384),
    "Levit": Family(short_int=True, enlarges=224 / 256),
    "MobileViT": Family(short_int=True, flips=True, normalizes=False),
}
"""Name of a processor without its ending -> what its code adds."""
CROPPED = Note(
    "Where a centre crop leaves an odd margin, it is rounded as torchvision does it; transformers without torchvision "
    "may crop one pixel further left or higher"
)
ENDINGS = r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$"


Sides = Side | dict[str, Side | None]
"""One number, or sides by name."""


class _Config(Fields):
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    size: Sides | None = None
    do_center_crop: bool | None = None
    crop_size: Sides | None = None
    crop_pct: Ratio | None = None
    size_divisor: int | None = None
    do_pad: bool | None = None
    pad_size: Any = None
    resample: int | None = None
    do_rescale: bool | None = None
    rescale_factor: Ratio | None = None
    do_normalize: bool | None = None
    image_mean: list[Number] | None = None
    image_std: list[Number] | None = None
    do_flip_channel_order: bool | None = None


def read_processor(evidence: Evidence) -> Iterator[Finding]:
    """The facts of `input`; a processor whose code is not known is refused by name."""
    found = evidence.document("image_processor_type", "feature_extractor_type", "image_processor")
    if found is None:
        return
    name, content = found
    inner = content.get("image_processor")
    config = read_fields(_Config, "input.resize", name, inner if isinstance(inner, dict) else content)
    if isinstance(config, Refusal):
        yield config
        return
    kind = config.image_processor_type or config.feature_extractor_type or "a processor without a name"
    family = FAMILIES.get(re.sub(ENDINGS, "", kind))
    if family is None:
        yield Refusal(
            "input.resize",
            f"{name}: the preprocessing of {kind} is not known to be one that tta.yaml can state; known: "
            f"{', '.join(FAMILIES)}",
        )
        return
    yield from _Processor(name, kind, config, family).findings()


def _rounded(scale: float) -> float:
    """7 digits of 1 / rescale_factor, which is rounded itself; a whole number as such."""
    found = float(f"{scale:.7g}")
    return int(found) if found.is_integer() else found


@dataclass(frozen=True, slots=True)
class _Processor:
    name: str
    kind: str
    config: _Config
    family: Family

    def findings(self) -> Iterator[Finding]:
        yield from self._values()
        if self.config.do_pad and self.config.pad_size:
            yield self._refusal("do_pad pads the image")
        elif self.config.do_resize is False:
            yield self._refusal("do_resize is false: images are expected to have the model's size already")
        elif self.config.do_resize:
            yield from self._resize()
            yield from self._interpolation()

    def _refusal(self, what: str) -> Refusal:
        return Refusal("input.resize", f"{self.name} ({self.kind}): {what}, which tta.yaml can't state yet")

    def _fact(self, key: str, value: Any, source: str) -> Fact:
        return Fact(f"input.{key}", value, f"{self.name}: {source}")

    # ---- values ----

    def _values(self) -> Iterator[Finding]:
        flips = self.family.flips if self.config.do_flip_channel_order is None else self.config.do_flip_channel_order
        yield self._fact("color", "BGR" if flips else "RGB", f"{self.kind}{' flips channels' if flips else ''}")
        factor = self.config.rescale_factor or 1 / 255
        if self.config.do_rescale is False:
            yield self._fact("scale", 1, "do_rescale is false")
        else:
            yield self._fact("scale", _rounded(1 / factor), f"rescale_factor is {factor:.6g}")
        normalizes = self.config.do_normalize if self.family.normalizes else False
        if normalizes is False:
            yield self._fact("mean", [0], "no normalisation")
            yield self._fact("std", [1], "no normalisation")
        elif normalizes is True:
            for key, values in (("mean", self.config.image_mean), ("std", self.config.image_std)):
                if values:
                    yield self._fact(key, values, f"image_{key}")

    def _interpolation(self) -> Iterator[Finding]:
        yield self._fact(
            "resize_like", "pillow", f"{self.kind} with Pillow; by torchvision, values differ by about 1 of 255"
        )
        number = self.config.resample
        if number in RESAMPLES:
            yield self._fact("interpolation", RESAMPLES[number], f"resample is {number}")
        elif number is not None:
            yield Refusal(
                "input.interpolation", f"{self.name}: resample {number} can't be stated in tta.yaml; it has {RESAMPLES}"
            )

    # ---- sizes ----

    def _resize(self) -> Iterator[Finding]:
        size = self.config.size
        if isinstance(size, int):
            size = {"shortest_edge": size} if self.family.short_int else {"height": size, "width": size}
        if not isinstance(size, dict):
            return
        crops = self.config.do_center_crop if self.family.crops else False
        if crops is None:
            return
        match {key: side for key, side in size.items() if side is not None}:
            case {"height": height, "width": width, **rest} if not rest:
                yield from self._exact([height, width], crops)
            case {"shortest_edge": side, "longest_edge": longest, **rest} if self.family.caps and not rest:
                yield from self._capped(side, longest)
            case {"shortest_edge": side, **rest} if not rest:
                yield from self._short(side, crops)
            case other:
                yield self._refusal(f"size is {other}")

    def _exact(self, size: list[int], crops: bool) -> Iterator[Finding]:
        crop = self._crop() if crops else size
        multiple = self.config.size_divisor or self.family.multiple
        if any(side % multiple for side in size):
            yield self._refusal(f"images become {size}, and are then enlarged to multiples of {multiple}")
            return
        if crop is None or any(part > whole for part, whole in zip(crop, size, strict=True)):
            yield self._refusal(f"images become {size}, and are then cropped to {crop}")
            return
        yield self._fact("size", crop, "crop_size" if crops else "size")
        yield self._fact("resize", "exact", "size has height and width")
        if crop != size:
            yield self._fact("crop_from", size, "size")
            if any((whole - part) % 4 == 3 for part, whole in zip(crop, size, strict=True)):
                yield CROPPED

    def _capped(self, side: int, longest: int) -> Iterator[Finding]:
        source = f"{self.kind}: sizes are not fixed"
        yield self._fact("size", "free", source)
        yield self._fact("resize", side, "size has shortest_edge")
        yield self._fact("max_long_side", longest, "size has longest_edge")
        yield self._fact("size_like", "transformers", f"{self.kind} rounds sizes in its own way")

    def _short(self, side: int, crops: bool) -> Iterator[Finding]:
        enlarges = self.family.enlarges and (self.config.crop_pct or self.family.enlarges)
        if self.family.whole_from is not None and enlarges:
            source = f"{self.kind}: size {side}, crop_pct {enlarges:g}"
            whole = side >= self.family.whole_from
            yield self._fact("size", [side, side], source)
            yield self._fact("resize", "exact" if whole else int(side / enlarges), source)
            if not whole:
                yield CROPPED
            return
        crop = self._crop()
        if not crops or crop is None:
            yield self._refusal(f"the short side becomes {side} without a crop, so that inputs differ in size")
            return
        short = int(side / enlarges) if enlarges else side
        if short < max(crop):
            yield self._refusal(f"the short side becomes {short}, under the crop of {crop}")
            return
        yield self._fact("size", crop, "crop_size")
        yield self._fact("resize", short, "size has shortest_edge")
        yield CROPPED

    def _crop(self) -> list[int] | None:
        """[height, width] of the centre crop."""
        match self.config.crop_size:
            case int(side):
                return [side, side]
            case {"height": int(height), "width": int(width)}:
                return [height, width]
        return None
