"""Runs of a model file on tensors: of one image with all that lies between, and of several against one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tta_server.backends.external_data import external_files, find_references
from tta_server.backends.onnxruntime import DTYPES, open_file
from tta_server.onboarding.batch.step import Rows
from tta_server.onboarding.model_file import ModelFile

if TYPE_CHECKING:
    from onnx import ModelProto

Arrays = Mapping[str, NDArray[Any]]
SIDE = 256
"""Of a tensor whose file leaves it free."""
CLOSE, CLOSE_HALF = 1e-5, 4e-3
"""Largest difference of a value, over the largest value of its output; for float16, which rounds to 5e-4."""


def make_images(file: ModelFile) -> list[NDArray[Any]]:
    """Different tensors of one image each: noise, a slope, and dim noise."""
    shape = file.tensor_shape(SIDE)
    random = np.random.default_rng(0)
    slope = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    values = [random.random(shape), slope, random.random(shape) * 0.3]
    dtype = DTYPES[file.inputs[0].type]
    return [(value * (255 if dtype == np.uint8 else 1)).astype(dtype) for value in values]


class Runner:
    """Runs of a model that lies, or would lie, at `path`, where its external data is."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Raises ConfigError for a file that can't be loaded."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        with TemporaryDirectory(prefix="tta-server-", ignore_cleanup_errors=True) as folder:
            place = Path(folder) / "model.onnx"
            place.write_bytes(content)
            for location, file in external_files(path, find_references(content)).items():
                (place.parent / location).parent.mkdir(parents=True, exist_ok=True)
                (place.parent / location).symlink_to(file.resolve())
            self._session = open_file(place, options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, images: NDArray[Any]) -> Arrays:
        """Outputs by name. Raises the error of ONNX Runtime."""
        options = ort.RunOptions()
        options.log_severity_level = 4
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: images}, options), strict=True))


def with_all_outputs(model: "ModelProto", names: Sequence[str]) -> bytes:
    """The bytes of a model that also gives these tensors."""
    from onnx import ModelProto, helper

    copy = ModelProto()
    copy.CopyFrom(model)
    given = {output.name for output in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    return copy.SerializeToString()


def differing(together: Arrays, alone: Sequence[Arrays], places: Mapping[str, Rows]) -> str | None:
    """The first tensor of which a batch does not hold what the images alone give; None if there is none."""
    for name, rows in places.items():
        parts = [outputs[name] for outputs in alone]
        if not _are_close(together[name], np.concatenate(parts, rows.axis)):
            return name
    return None


def _are_close(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not np.issubdtype(found.dtype, np.floating):
        return bool((found == expected).all())
    both = np.isfinite(found) & np.isfinite(expected)
    if not np.array_equal(found[~both], expected[~both], equal_nan=True):
        return False
    values = expected[both].astype(np.float64)
    limit = (CLOSE_HALF if found.dtype == np.float16 else CLOSE) * np.abs(values).max(initial=0)
    return bool((np.abs(found[both].astype(np.float64) - values) <= limit).all())
