"""Images without labels, as a model is given them by each candidate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tta_server.backends import Signature
from tta_server.errors import ConfigError, TTAError
from tta_server.errors.validation import explain, explain_value
from tta_server.imaging.decoding import Limits, decode_with_levels, read_header
from tta_server.imaging.formats.header import Raster
from tta_server.imaging.formats.samples import raster_size
from tta_server.imaging.inputs import read_file
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.onboarding.choices import Values
from tta_server.onboarding.measured.candidates import NORMALIZATION, NORMALIZATIONS, Candidate
from tta_server.repository.input_config import InputConfig
from tta_server.repository.loader import make_preprocessing
from tta_server.views.view import View

T = TypeVar("T")
Track = Callable[[Sequence[T]], Iterable[T]]
"""Shows how far the work on a sequence is."""


def read_images(paths: Sequence[Path], track: Track[Path]) -> Iterator[Raster]:
    """Upright RGB images of the files that can be read."""
    limits = Limits()
    for path in track(paths):
        try:
            encoded = read_file(path, limits)
            yield decode_with_levels(encoded, read_header(encoded, limits)).raster
        except (TTAError, OSError):
            continue


def pixels_of(values: Values, resize: Any, signature: Signature) -> Preprocessing:
    """Preprocessing to pixels from 0 to 255 in the order red, green, blue; raise ConfigError if values exclude it."""
    inputs = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("input.")}
    inputs = {key: value for key, value in inputs.items() if f"input.{key}" not in NORMALIZATION}
    inputs |= {} if resize is None else {"resize": resize}
    inputs["color"] = "grey" if inputs.get("color") == "grey" else "RGB"
    if signature.dtype != np.uint8:
        inputs["scale"] = 1
    try:
        config = InputConfig.model_validate(inputs)
    except ValidationError as error:
        raise ConfigError("; ".join(explain_value(mistake, ()) for mistake in explain(error, inputs))) from None
    return make_preprocessing(config, signature, can_tile=False)


def plain_view(preprocessing: Preprocessing, raster: Raster) -> NDArray[Any]:
    """The input of the plain view of an image, [1, ...] in the model's layout."""
    placement = preprocessing.place(View(), raster_size(raster))
    batch = preprocessing.empty(1, placement.tensor)
    preprocessing.write(preprocessing.canvas(raster, 1.0), View(), placement, batch[0])
    return batch


def as_candidate(pixels: NDArray[Any], candidate: Candidate, values: Values, layout: str) -> NDArray[Any]:
    """Pixels [1, ...] in a candidate's order of channels, normalised."""
    channels = 3 if layout == "NHWC" else 1
    if candidate.color == "BGR":
        pixels = np.ascontiguousarray(np.flip(pixels, channels))
    numbers = dict(values)
    if candidate.normalization is not None:
        numbers |= NORMALIZATIONS[candidate.normalization].values(candidate.color)
    elif pixels.dtype == np.uint8:
        return pixels
    scale, mean, std = (
        np.array(numbers[key], np.float32).reshape((-1,) if channels == 3 else (-1, 1, 1)) for key in NORMALIZATION
    )
    return ((pixels.astype(np.float32) / scale - mean) / std).astype(pixels.dtype)
