"""Preprocessing of Roboflow's packages, as inference-models does it to images that are arrays.

(inference_models/models/common/roboflow/pre_processing.py.) OpenCV resizes to training_input_size: `stretch`, or
`letterbox` with sides rounded down; then colours, then (x / scaling_factor - mean) / std. RF-DETR stretches with Pillow
and divides by 255 before its normalisation (models/rfdetr/pre_processing.py). environment.json has a resize in words
(inference/core/models/roboflow.py) and no normalisation; its models take the file's own size.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from tta_server.onboarding.evidence import Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.fields import Fields, Number, Ratio, Side, read_fields

STRETCH, LETTERBOX = "stretch", ("letterbox", "letterbox-reflect-edges")
FITS = {"Fit (black edges) in": 0, "Fit (white edges) in": 255, "Fit (grey edges) in": 114}
"""`format` of environment.json -> the letterbox' fill; all others stretch."""


class _Switch(Fields):
    enabled: bool = False


class _Images(Fields):
    static_crop: _Switch | None = Field(None, alias="static-crop")
    contrast: _Switch | None = None
    grayscale: _Switch | None = None


class _Size(Fields):
    height: Side
    width: Side


class _Network(Fields):
    training_input_size: _Size | None = None
    dataset_version_resize_dimensions: _Size | None = None
    color_mode: str | None = None
    resize_mode: str | None = None
    padding_value: int | None = Field(None, ge=0, le=255)
    input_channels: int = 3
    scaling_factor: Ratio | None = None
    normalization: tuple[list[Number], list[Number]] | None = None


class _Resize(Fields):
    format: str = "Stretch to"
    height: Side | None = None
    width: Side | None = None


class _Config(Fields):
    image_pre_processing: _Images | None = None
    network_input: _Network


class _Environment(_Images):
    resize: _Resize | None = None


def input_facts(name: str, content: Mapping[str, Any], *, is_rfdetr: bool) -> Iterator[Finding]:
    """The facts of `input` that inference_config.json states."""
    config = read_fields(_Config, "input.resize", name, content)
    if isinstance(config, Refusal):
        yield config
        return
    network = config.network_input
    yield from _changes(name, config.image_pre_processing or _Images())
    if network.input_channels != 3:
        yield Refusal(
            "input.color", f"{name}: input_channels is {network.input_channels}; Roboflow's own models have 3"
        )
        return
    if network.color_mode in ("rgb", "bgr"):
        yield Fact("input.color", network.color_mode.upper(), f"{name}: color_mode")
    yield from _values(name, network, is_rfdetr)
    if network.training_input_size:
        size = network.training_input_size
        yield Fact("input.size", [size.height, size.width], f"{name}: training_input_size")
    yield from _rfdetr(name, network) if is_rfdetr else _resize(name, network)


def _changes(name: str, images: _Images) -> Iterator[Finding]:
    """What is done to images before, which tta.yaml has no key for."""
    if images.static_crop and images.static_crop.enabled:
        yield Refusal("input.resize", f"{name}: static-crop cuts images before they are resized; crop them yourself")
    if images.contrast and images.contrast.enabled:
        yield Refusal("input.resize", f"{name}: contrast is enabled, and tta.yaml has no key for it")
    if images.grayscale and images.grayscale.enabled:
        yield Refusal("input.color", f"{name}: grayscale gives grey images in 3 channels, which tta.yaml can't state")


def _values(name: str, network: _Network, is_rfdetr: bool) -> Iterator[Finding]:
    factor: float | None = network.scaling_factor
    if is_rfdetr and (network.normalization or factor is None):
        factor = 255  # to_tensor's
    scale = 1 if factor is None else int(factor) if float(factor).is_integer() else factor
    yield Fact(
        "input.scale", scale, "RF-DETR divides by 255" if scale == 255 and is_rfdetr else f"{name}: scaling_factor"
    )
    mean, std = network.normalization or ([0], [1])
    yield Fact("input.mean", mean, f"{name}: normalization")
    if std and min(std) > 0:
        yield Fact("input.std", std, f"{name}: normalization")
    else:
        yield Refusal("input.std", f"{name}: normalization divides by {std}; the numbers should be over 0")


def _rfdetr(name: str, network: _Network) -> Iterator[Finding]:
    if network.dataset_version_resize_dimensions and network.resize_mode != STRETCH:
        yield Refusal(
            "input.resize",
            f"{name}: resize_mode {network.resize_mode} to dataset_version_resize_dimensions, and then a stretch: two "
            "resizes can't be stated in tta.yaml",
        )
        return
    yield Fact("input.resize", "exact", f"{name}: RF-DETR stretches images")
    yield Fact("input.resize_like", "pillow", "RF-DETR resizes with Pillow")
    yield Fact("input.interpolation", "bilinear", "RF-DETR resizes with Pillow")


def _resize(name: str, network: _Network) -> Iterator[Finding]:
    mode = network.resize_mode
    source = f"{name}: resize_mode is {mode}"
    if mode == STRETCH:
        yield Fact("input.resize", "exact", source)
    elif mode in LETTERBOX:
        yield from _letterbox(source, network.padding_value or 0)
        if mode != LETTERBOX[0]:
            yield Note(f"{source}: images of the training reflect at the edges; Roboflow's inference fills, as here")
    elif mode is not None:
        yield Refusal(
            "input.resize", f"{source}, which tta.yaml can't state; {', '.join((STRETCH, *LETTERBOX))} can be stated"
        )
        return
    yield from _opencv()


def _letterbox(source: str, fill: int) -> Iterator[Finding]:
    yield Fact("input.resize", "letterbox", source)
    yield Fact("input.letterbox_fill", fill, source)
    yield Fact("input.rounding", "floor", "Roboflow rounds sides down")


def _opencv() -> Iterator[Finding]:
    yield Fact("input.resize_like", "opencv", "Roboflow resizes with OpenCV")
    yield Fact("input.interpolation", "bilinear", "Roboflow resizes with OpenCV")


def environment_facts(name: str, stated: Any, file: ModelFile) -> Iterator[Finding]:
    """The facts of `input` of `PREPROCESSING` in environment.json: JSON, or a text of JSON."""
    try:
        content = json.loads(stated) if isinstance(stated, str) else stated
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        yield Refusal("input.resize", f"{name}: PREPROCESSING is no JSON object")
        return
    found = read_fields(_Environment, "input.resize", f"{name}: PREPROCESSING", content)
    if isinstance(found, Refusal):
        yield found
        return
    yield from _changes(name, found)
    yield Fact("input.color", "RGB", f"{name}: Roboflow's models of that kind take RGB")
    resize = found.resize or _Resize()
    if None in file.size(file.layout or "NCHW") and resize.height and resize.width:
        yield Fact("input.size", [resize.height, resize.width], f"{name}: resize")
    source = f"{name}: resize is {resize.format}"
    if resize.format in FITS:
        yield from _letterbox(source, FITS[resize.format])
    else:
        yield Fact("input.resize", "exact", source)
        if resize.format != _Resize().format:
            yield Note(f"{source}, but Roboflow's inference stretches, as here")
    yield from _opencv()
