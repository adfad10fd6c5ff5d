"""Preprocessing of OpenVINO's `model_info`: what Model API (models/image_model.py, adapters/utils.py) does to an image.

It is resized with OpenCV (`RESIZE_TYPES`), then (x - mean_values) / scale_values on values from 0 to 255. Sizes that
are not fixed are not resized. `reverse_input_channels` swaps red and blue of whatever the program gives: Training
Extensions from 2 on, which write `label_info`, give RGB (models/detection/yolox.py swaps for all but the one that
"uses RGB"), older programs BGR; without `label_info` the order is therefore not known.
"""

from collections.abc import Iterator

from tta_server.onboarding.evidence import Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.fields import Fields, Number, Numbers

SOURCE = "metadata model_info"
INTERPOLATIONS = {"LINEAR": "bilinear", "CUBIC": "bicubic", "NEAREST": "nearest", "AREA": "area"}
RESIZES = ("standard", "fit_to_window", "fit_to_window_letterbox", "crop")
YOLOX_FILL = 114
SWAPPED = {"RGB": "BGR", "BGR": "RGB"}


class InputInfo(Fields):
    """Fields of `model_info` that say how an image becomes the input."""

    mean_values: Numbers | None = None
    scale_values: Numbers | None = None
    reverse_input_channels: bool = False
    resize_type: str = "standard"
    pad_value: int = 0
    interpolation_mode: str = "LINEAR"
    input_dtype: str = "u8"
    intensity_mode: str = "none"
    intensity_max_value: Number | None = None
    embedded_processing: bool = False

    def channel_order(self, given: str | None) -> str | None:
        """The order in which the model sees channels, if programs give images in the order `given`."""
        return given and (SWAPPED[given] if self.reverse_input_channels else given)


def input_facts(info: InputInfo, file: ModelFile, order: str | None, *, is_yolox: bool) -> Iterator[Finding]:
    """The facts of `input`; `order` is that of channels, None if it is not known."""
    if info.embedded_processing:
        yield Refusal(
            "input.resize",
            f"{SOURCE} embedded_processing is True: the graph itself resizes and normalises, so that the size it was "
            "trained with is not known; export the model without, or state input with --set",
        )
        return
    yield from _color(info, file, order)
    yield from _values(info)
    height, width = file.size(file.layout or "NCHW")
    if height is None or width is None:
        yield Fact("input.size", "free", "Model API resizes no image for an input of free size")
        yield Fact("input.resize", "none", "Model API resizes no image for an input of free size")
        return
    yield Fact("input.resize_like", "opencv", "Model API resizes with OpenCV")
    yield from _interpolation(info)
    if is_yolox:
        yield from _letterbox("Model API's YOLOX", "top_left", YOLOX_FILL)
    else:
        yield from _resize(info, is_square=height == width)


def _color(info: InputInfo, file: ModelFile, order: str | None) -> Iterator[Finding]:
    if file.layout and file.image[1 if file.layout == "NCHW" else 3] == 1:
        return  # grey
    reverses = f"{SOURCE} reverse_input_channels is {info.reverse_input_channels}"
    if order is None:
        yield Note(
            f"{reverses}, which says whether channels are swapped, but not in which order programs give them; state "
            "input.color"
        )
    else:
        yield Fact("input.color", order, f"{reverses}; images are given as RGB")


def _values(info: InputInfo) -> Iterator[Finding]:
    scale = 1
    dtype, mode = info.input_dtype, info.intensity_mode
    if dtype == "u8" and mode == "scale_to_unit" and info.intensity_max_value in (None, 255):
        scale = 255
    elif dtype != "u8" or mode != "none":
        yield Refusal(
            "input.scale",
            f"{SOURCE} input_dtype is {dtype} and intensity_mode {mode}: known are u8 without, or with scale_to_unit "
            "up to 255",
        )
        return
    yield Fact("input.scale", scale, f"{SOURCE}: values from 0 to {255 // scale}")
    yield Fact("input.mean", info.mean_values or [0], f"{SOURCE} mean_values")
    divisors = info.scale_values or [1]
    if min(divisors) > 0:
        yield Fact("input.std", divisors, f"{SOURCE} scale_values")
    else:
        yield Refusal("input.std", f"{SOURCE} scale_values has {min(divisors):g}; they should be over 0")


def _interpolation(info: InputInfo) -> Iterator[Finding]:
    found = INTERPOLATIONS.get(info.interpolation_mode.upper())
    if found:
        yield Fact("input.interpolation", found, f"{SOURCE} interpolation_mode, or Model API's own")
    else:
        yield Refusal(
            "input.interpolation",
            f"{SOURCE} interpolation_mode is {info.interpolation_mode!r}; known are {', '.join(INTERPOLATIONS)}",
        )


def _resize(info: InputInfo, *, is_square: bool) -> Iterator[Finding]:
    source, fill = f"{SOURCE} resize_type is {info.resize_type}", info.pad_value
    match info.resize_type:
        case "standard":
            yield Fact("input.resize", "exact", source)
        case "fit_to_window_letterbox" if 0 <= fill <= 255:
            yield from _letterbox(source, "center", fill)
        case "fit_to_window" if fill == 0:
            yield from _letterbox(source, "top_left", 0)
        case "fit_to_window" if 0 < fill <= 255:
            yield from _letterbox(source, "top_left", fill)
            yield Note(
                f"{source}: Model API fills with {fill} in OpenVINO, but with 0 in ONNX Runtime; {fill} is taken"
            )
        case "crop" if is_square:
            yield Fact("input.resize", "cover", source)
            yield Note(f"{source}: Model API crops before it resizes; here content may lie up to one pixel elsewhere")
        case other if other in RESIZES:
            why = "a crop to an input that is not square" if other == "crop" else f"pad_value {fill}"
            yield Refusal("input.resize", f"{source}: {why} can't be stated in tta.yaml")
        case _:
            yield Refusal("input.resize", f"{source}; known are {', '.join(RESIZES)}")


def _letterbox(source: str, anchor: str, fill: int) -> Iterator[Finding]:
    yield Fact("input.resize", "letterbox", source)
    yield Fact("input.letterbox_anchor", anchor, source)
    yield Fact("input.letterbox_fill", fill, source)
    if anchor == "top_left":
        yield Note(
            f"{source}: Model API resizes by the ratio before sides are rounded; here content may lie up to half a "
            "pixel elsewhere"
        )
