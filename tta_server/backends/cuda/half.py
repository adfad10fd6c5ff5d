"""A model in half precision: what it computes inside is float16, its inputs and outputs stay as they are."""

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tta_server.errors import ConfigError

log = logging.getLogger(__name__)


class HalfModel(NamedTuple):
    """A file's content; `has_groups`: some convolution has groups, as depthwise ones have."""

    content: bytes
    has_groups: bool


def as_half(path: Path) -> HalfModel:
    """Return a model file that computes in float16; raise ConfigError if it can't be converted."""
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ConfigError(
            f"{path}: backend.precision is fp16, which needs the onnx package ({error}): run "
            "`pip install 'tta-server[compile]'`, or set precision: exact or tf32"
        ) from error
    try:
        with warnings.catch_warnings(record=True) as clipped:
            warnings.simplefilter("always")
            model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
            content: bytes = model.SerializeToString()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path}: the model can't be converted to float16: {reason}; set backend.precision: tf32, or export it in "
            "float16"
        ) from error
    if clipped:
        log.warning("%s: %d constants of the model were rounded to what float16 holds", path, len(clipped))
    return HalfModel(content, any(_has_groups(node) for node in model.graph.node))


def _has_groups(node: Any) -> bool:
    return node.op_type == "Conv" and any(each.name == "group" and each.i > 1 for each in node.attribute)
