"""A model in half precision: what it computes inside is float16, its inputs and outputs stay as they are."""

import logging
import warnings
from pathlib import Path

from tta_server.errors import ConfigError

log = logging.getLogger(__name__)

MOST_BYTES = 2_000_000_000
"""A model in one piece may have up to 2 GiB."""


def as_half(path: Path) -> bytes:
    """Return the content of a model file that computes in float16; raise ConfigError if it can't be converted."""
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
            content: bytes = convert_float_to_float16(onnx.load(path), keep_io_types=True).SerializeToString()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path}: the model can't be converted to float16: {reason}; set backend.precision: tf32, or export it in "
            "float16"
        ) from error
    if clipped:
        log.warning("%s: %d constants of the model were rounded to what float16 holds", path, len(clipped))
    return content
