"""Checks of `tta.yaml` against the model file."""

import numpy as np

from tta_server.backends import Signature
from tta_server.errors import ConfigError
from tta_server.repository.config import InputConfig, ModelConfig


def spatial_axes(signature: Signature, layout: str) -> tuple[int | None, int | None]:
    first = 1 if layout == "NHWC" else 2
    return signature.shape[first], signature.shape[first + 1]


def check_min_views(config: ModelConfig, views: int) -> None:
    least = config.budget.min_views
    if least != "all" and least > views:
        raise ConfigError(f"budget.min_views is {least}, but the policy has {views} views")


def check_signature(config: InputConfig, signature: Signature) -> None:
    channels = 1 if config.color == "grey" else 3
    axis = 3 if config.layout == "NHWC" else 1
    if signature.shape[axis] not in (None, channels):
        raise ConfigError(
            f"input.color {config.color} with layout {config.layout} needs {channels} channels; "
            f"the model file has {signature.shape[axis]}"
        )
    if signature.dtype == np.uint8 and (unused := config.model_fields_set & {"scale", "mean", "std"}):
        raise ConfigError(
            f"input.{min(unused)} would do nothing: the model file takes uint8, so pixels go in as they are"
        )
    if signature.shape[0] not in (None, 1):
        raise ConfigError(f"the model file has a fixed batch of {signature.shape[0]}; it should be free, or 1")
    stated = spatial_axes(signature, config.layout)
    if config.size == "free" and stated != (None, None):
        raise ConfigError(f"input.size is free, but the model file takes only {list(stated)}")
    if config.size != "free":
        multiple = 1 if config.resize == "letterbox" else config.multiple
        padded = [-(-side // multiple) * multiple for side in config.size]
        if any(s not in (None, p) for s, p in zip(stated, padded, strict=True)):
            raise ConfigError(f"input.size is {list(config.size)}, but the model file takes {list(stated)}")
