"""Checks of `tta.yaml` against the model file."""

from collections.abc import Iterator, Sequence

import numpy as np

from tta_server.backends import Signature
from tta_server.backends.inputs import LIKELY, fits_function
from tta_server.errors import ConfigError
from tta_server.repository.config import ModelConfig
from tta_server.repository.input_config import InputConfig
from tta_server.tasks.checks import Finding


def spatial_axes(signature: Signature, layout: str) -> tuple[int | None, int | None]:
    """Return (height, width) of the model file's input; None is a free axis."""
    first = 1 if layout == "NHWC" else 2
    return signature.shape[first], signature.shape[first + 1]


def check_min_views(config: ModelConfig, views: int) -> None:
    """Raise ConfigError if more views are mandatory than the policy has."""
    least = config.budget.min_views
    if least != "all" and least > views:
        raise ConfigError(f"budget.min_views is {least}, but the policy has {views} views; give at most {views}")


def check_input_name(config: InputConfig, signature: Signature) -> None:
    """Raise ConfigError if `input.name` is not the input that takes the image."""
    if config.name not in (None, signature.input):
        raise ConfigError(
            f"input.name is {config.name!r}, but the model takes its image as {signature.input}; remove it"
        )


def check_signature(config: InputConfig, signature: Signature) -> None:
    """Raise ConfigError if `input` does not fit the channels, dtype, batch or size of the model file."""
    channels = 1 if config.color == "grey" else 3
    axis = 3 if config.layout == "NHWC" else 1
    if signature.shape[axis] not in (None, channels):
        raise ConfigError(
            f"input.color {config.color} with layout {config.layout} means {channels} channels, but the model file "
            f"has {signature.shape[axis]}"
        )
    if signature.dtype == np.uint8 and (unused := config.model_fields_set & {"scale", "mean", "std"}):
        raise ConfigError(
            f"input.{min(unused)} has no effect: the model file takes uint8, which is not normalised; remove the key"
        )
    if signature.shape[0] not in (None, 1):
        raise ConfigError(
            f"the model file has a fixed batch of {signature.shape[0]}; export it with a free batch axis, or with 1"
        )
    fixed = spatial_axes(signature, config.layout)
    if config.size == "free" and fixed != (None, None):
        raise ConfigError(f"input.size is free, but the model file takes only {_axes(fixed)}; set that size")
    if config.size != "free":
        multiple = 1 if config.resize == "letterbox" else config.multiple
        padded = [-(-side // multiple) * multiple for side in config.size]
        if any(s not in (None, p) for s, p in zip(fixed, padded, strict=True)):
            raise ConfigError(
                f"input.size is {list(config.size)}, but the model file takes {_axes(fixed)}; set that size"
            )


def other_input_findings(signature: Signature) -> Iterator[Finding]:
    """Find a function that is another one than that which an input of this name usually takes."""
    for name, one in signature.other_inputs.items():
        likely = LIKELY.get(name, one.function)
        if likely != one.function and fits_function(likely, one):
            yield Finding(
                "input.others",
                f"input.others has {name}: {one.function}, but an input of this name usually takes {likely}, and boxes "
                f"of inputs that are no squares show the difference; set {name}: {likely}",
            )


NARROW, WIDE = 0.1, 300.0
"""Least and most span of an image's values, black to white, that a normalisation leaves."""


def input_findings(config: InputConfig, signature: Signature) -> Iterator[Finding]:
    """Find `mean` and `std` that do not belong to `scale`: 0 to 255 against 0 to 1."""
    if signature.dtype == np.uint8:
        return
    white = 255 / config.scale
    stated = f"input.scale is {config.scale:g}, so mean and std are of values from 0 to {white:g}"
    fits = 255 if config.scale == 1 else 1
    in_unit = 0 < max(map(abs, config.mean)) <= 1 and white > 10
    if max(config.mean) > white * 1.02 or in_unit:
        yield Finding("input.mean", f"{stated}, but mean is {_numbers(config.mean)}; set input.scale: {fits}")
    elif not NARROW <= white / max(config.std) <= white / min(config.std) <= WIDE:
        yield Finding(
            "input.mean",
            f"{stated}, but std is {_numbers(config.std)}: black and white become values "
            f"{white / max(config.std):.3g} apart; set input.scale: {fits}",
        )


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _axes(sizes: tuple[int | None, int | None]) -> str:
    """Return [height, width] as text."""
    return f"[{', '.join('free' if size is None else str(size) for size in sizes)}]"
