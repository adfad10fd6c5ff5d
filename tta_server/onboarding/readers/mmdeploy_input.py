"""Preprocessing of mmdeploy's pipeline.json: its ordered transforms, as csrc/mmdeploy/preprocess/transform reads them.

Images are loaded as BGR (load.cpp) and resized with OpenCV (resize.cpp); Normalize swaps channels first (`to_rgb`) and
then takes (x - mean) / std of values from 0 to 255 (normalize.cpp); Pad adds to the right and below (pad.cpp), behind
Normalize with zeros. `keep_ratio` fits the long side and the short side, whichever is the width; sides are
int(x + 0.5). A short side with -1 is mmpretrain's ResizeEdge, which floors the long one. Exporters disagree whether
`size` is [width, height] (mmdet) or [height, width] (mmseg).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from tta_server.imaging.resizing import INTERPOLATIONS
from tta_server.onboarding.evidence import Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.fields import Fields, Number, read_fields

IGNORED = ("LoadImageFromFile", "DefaultFormatBundle", "ImageToTensor", "Collect", "LoadAnnotations")
"""Transforms that change no pixel."""
KNOWN = ("Resize", "LetterResize", "CenterCrop", "Pad", "Normalize")
LETTERBOX_NOTE = "images smaller than the input are enlarged here, but not by mmdeploy (allow_scale_up is false)"

Length = Annotated[int, Field(ge=-1, le=16_384)]
Pair = Length | list[Length]
"""One side or two; -1 is one that follows."""


class Step(Fields):
    """A transform; fields of all kinds."""

    type: str
    size: Pair | None = None
    scale: Pair | None = None
    keep_ratio: bool = False
    interpolation: str = "bilinear"
    backend: str = "cv2"
    crop_size: Pair | None = None
    size_divisor: Annotated[int, Field(ge=1, le=512)] | None = None
    pad_to_square: bool = False
    pad_val: Any = 0
    logical_or_val: int = 0
    mean: list[Number] | None = None
    std: list[Number] | None = None
    to_rgb: bool = True
    channel_order: str = "bgr"
    color_type: str = "color"
    allow_scale_up: bool = True
    use_mini_pad: bool = False
    stretch_only: bool = False

    @property
    def fill(self) -> int | None:
        """The value that Pad adds to all channels; None if there is no such value."""
        found = self.pad_val.get("img") if isinstance(self.pad_val, dict) else self.pad_val
        values = found if isinstance(found, list) else [found]
        first = values[0] if values else None
        if not isinstance(first, int | float) or not 0 <= first <= 255 or values.count(first) < len(values):
            return None
        return int(first) if float(first).is_integer() else None

    def pair(self, found: Pair | None) -> list[int] | None:
        """Two sides; None for anything else."""
        sides = [found, found] if isinstance(found, int) else found
        return sides if sides and len(sides) == 2 else None


def transform_facts(name: str, transforms: Sequence[Any], file: ModelFile) -> Iterator[Finding]:
    """The facts of `input`."""
    steps = []
    for index, each in enumerate(transforms):
        step = read_fields(Step, "input.resize", f"{name}: transform {index}", each if isinstance(each, dict) else {})
        if isinstance(step, Refusal):
            yield step
            return
        steps.append(step)
    unknown = [step.type for step in steps if step.type not in (*IGNORED, *KNOWN)]
    if unknown:
        yield Refusal(
            "input.resize", f"{name}: transform {unknown[0]} can't be stated in tta.yaml; known are {', '.join(KNOWN)}"
        )
        return
    yield from _Pipeline(name, steps, file).findings()


@dataclass(frozen=True, slots=True)
class _Pipeline:
    name: str
    steps: Sequence[Step]
    file: ModelFile

    def findings(self) -> Iterator[Finding]:
        yield from self._pixels()
        resizes = self._of("Resize", "LetterResize")
        if len(resizes) > 1 or len(self._of("CenterCrop")) > 1:
            yield self._refusal("images are resized or cropped more than once")
        elif resizes:
            yield from self._interpolation(resizes[0])
            yield from self._resize(resizes[0])

    def _of(self, *kinds: str) -> list[Step]:
        return [step for step in self.steps if step.type in kinds]

    def _fact(self, key: str, value: Any, source: str) -> Fact:
        return Fact(f"input.{key}", value, f"{self.name}: {source}")

    def _refusal(self, what: str) -> Refusal:
        return Refusal("input.resize", f"{self.name}: {what}, which tta.yaml can't state")

    # ---- values ----

    def _pixels(self) -> Iterator[Finding]:
        load = next(iter(self._of("LoadImageFromFile")), Step(type="LoadImageFromFile"))
        normalize = next(iter(self._of("Normalize")), Step(type="Normalize", to_rgb=False, mean=[0], std=[1]))
        if load.color_type.startswith("color"):
            is_rgb = normalize.to_rgb != (load.channel_order == "rgb")
            how = f"images are {load.channel_order.upper()}, Normalize's to_rgb is {normalize.to_rgb}"
            yield self._fact("color", "RGB" if is_rgb else "BGR", how)
        else:
            yield self._fact("color", "grey", f"color_type is {load.color_type}")
        source = "Normalize" if self._of("Normalize") else "there is no Normalize"
        yield self._fact("scale", 1, f"{source}: values from 0 to 255")
        for key, values in (("mean", normalize.mean), ("std", normalize.std)):
            if values:
                yield self._fact(key, values, source)

    def _interpolation(self, resize: Step) -> Iterator[Finding]:
        library = "pillow" if resize.backend == "pillow" else "opencv"
        yield self._fact("resize_like", library, f"{resize.type}, backend {resize.backend}")
        if resize.interpolation in INTERPOLATIONS[library]:
            yield self._fact("interpolation", resize.interpolation, f"{resize.type}'s interpolation, or its default")
        else:
            yield Refusal(
                "input.interpolation",
                f"{self.name}: interpolation {resize.interpolation!r} can't be stated in tta.yaml",
            )

    # ---- sizes ----

    def _resize(self, resize: Step) -> Iterator[Finding]:
        size = resize.pair(resize.scale if resize.type == "LetterResize" else resize.size)
        crops = self._of("CenterCrop")
        if size is None:
            yield self._refusal(f"{resize.type} has no size of two sides")
        elif resize.type == "LetterResize":
            yield from self._letter_resize(resize, size)
        elif crops:
            yield from self._crop(resize, size, crops[0].pair(crops[0].crop_size))
        elif not resize.keep_ratio:
            yield from self._exact(size)
        elif min(size) < 1:
            yield self._refusal(f"the short side becomes {max(size)} without a crop, so that inputs differ in size")
        else:
            yield from self._fitted(size)

    def _exact(self, size: list[int]) -> Iterator[Finding]:
        """`size` in the order of the file's input, if it is not square."""
        sides = self._ordered(size)
        if sides is None:
            yield self._refusal(
                f"Resize's size {size} may be [width, height] or [height, width], and the file's input "
                f"{self.file.inputs[0].text} is neither"
            )
        elif any(not self._leaves(pad, sides) for pad in self._of("Pad")):
            yield self._refusal(f"images of {sides} are padded")
        else:
            yield self._fact("size", sides, "Resize")
            yield self._fact("resize", "exact", "Resize, keep_ratio is false")

    def _ordered(self, size: list[int]) -> list[int] | None:
        stated = [*self.file.size(self.file.layout or "NCHW")]
        if size[0] == size[1] > 0:
            return size
        return next((order for order in (size, size[::-1]) if order == stated), None)

    @staticmethod
    def _leaves(pad: Step, size: list[int]) -> bool:
        """Whether Pad adds nothing to images of that size."""
        if pad.logical_or_val:
            return False
        if pad.pad_to_square or pad.size is not None:
            return size[0] == size[1] if pad.size is None else sorted(pad.pair(pad.size) or ()) == sorted(size)
        return all(side % (pad.size_divisor or 1) == 0 for side in size)

    def _crop(self, resize: Step, size: list[int], crop: list[int] | None) -> Iterator[Finding]:
        short = max(size) if resize.keep_ratio and min(size) < 1 else None
        if crop is None or min(crop) < 1:
            yield self._refusal("CenterCrop has no crop_size of two sides")
        elif short is None and (resize.keep_ratio or size[0] != size[1]):
            yield self._refusal(f"CenterCrop behind a Resize to {size}")
        elif (short or size[0]) < max(crop):
            yield self._refusal(f"images are resized to {short or size[0]}, under the crop of {crop}")
        else:
            yield self._fact("size", crop, "CenterCrop")
            if short:
                yield self._fact("resize", short, "Resize of the short side")
            else:
                yield self._fact("resize", "exact", "Resize, keep_ratio is false")
                yield self._fact("crop_from", size, "Resize")

    def _fitted(self, size: list[int]) -> Iterator[Finding]:
        """Both sides in proportion: with Pad to a square a letterbox, else of free size."""
        pads = [pad for pad in self._of("Pad") if pad.pad_to_square or pad.size or (pad.size_divisor or 1) > 1]
        square = [pad for pad in pads if pad.pad_to_square or pad.pair(pad.size) == size]
        multiples = [pad for pad in pads if (pad.size_divisor or 1) > 1 and not pad.size and not pad.pad_to_square]
        if any(pad.logical_or_val for pad in self._of("Pad")) or len(square) + len(multiples) != len(pads):
            yield self._refusal(f"Pad behind a Resize to {size} that keeps proportions")
        elif square and size[0] == size[1] and all(self._leaves(pad, size) for pad in multiples):
            yield self._fact("size", size, "Resize and Pad")
            yield from self._letterbox(square[0], "Resize and Pad, to the right and below", "top_left")
        elif square:
            yield self._refusal(f"Resize to {size} in proportion, whichever side is longer, and Pad to that size")
        elif None not in self.file.size(self.file.layout or "NCHW"):
            yield self._refusal(f"Resize to {size} keeps proportions, but the file's input is of fixed size")
        else:
            yield from self._free(size, multiples)

    def _free(self, size: list[int], multiples: Sequence[Step]) -> Iterator[Finding]:
        if len(multiples) > 1 or any(pad.fill != 0 or not self._is_behind_normalize(pad) for pad in multiples):
            yield self._refusal("Pad to a multiple with other values than zeros behind Normalize")
            return
        source = "Resize, keep_ratio is true"
        yield self._fact("size", "free", source)
        yield self._fact("resize", min(size), source)
        yield self._fact("max_long_side", max(size), source)
        yield self._fact("size_like", "mmdetection", source)
        for pad in multiples:
            yield self._fact("multiple", pad.size_divisor, "Pad's size_divisor")
            yield self._fact("pad", "zeros", "Pad behind Normalize")

    def _is_behind_normalize(self, pad: Step) -> bool:
        kinds = [step.type for step in self.steps]
        return "Normalize" not in kinds or kinds.index("Normalize") < self.steps.index(pad)

    def _letterbox(self, pad: Step, source: str, anchor: str) -> Iterator[Finding]:
        if pad.fill is None or (pad.fill and self._is_behind_normalize(pad) and self._of("Normalize")):
            yield self._refusal(f"pad_val {pad.pad_val} of {pad.type}")
            return
        is_zeros = pad.fill == 0 and self._is_behind_normalize(pad)
        yield self._fact("resize", "letterbox", source)
        yield self._fact("letterbox_anchor", anchor, source)
        yield self._fact("letterbox_fill", "zeros" if is_zeros else pad.fill, f"pad_val of {pad.type}")
        yield self._fact("rounding", "half_up", "mmdeploy's int(x + 0.5)")

    def _letter_resize(self, resize: Step, size: list[int]) -> Iterator[Finding]:
        sides = self._ordered(size)
        if resize.use_mini_pad or sides is None or any(not self._leaves(pad, sides) for pad in self._of("Pad")):
            what = "use_mini_pad" if resize.use_mini_pad else f"scale {size} and what follows"
            yield self._refusal(f"LetterResize with {what}")
            return
        yield self._fact("size", sides, "LetterResize")
        if resize.stretch_only:
            yield self._fact("resize", "exact", "LetterResize, stretch_only is true")
            return
        yield from self._letterbox(resize, "LetterResize", "center")
        if not resize.allow_scale_up:
            yield Note(f"{self.name}: {LETTERBOX_NOTE}")
