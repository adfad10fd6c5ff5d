"""ONNX Runtime on the CPU: one session per model, shared by all slots; each run uses one thread, its caller's."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tta_server.backends.base import Outputs, Signature, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, ConfigError

log = logging.getLogger(__name__)

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OnnxRuntimeBackend:
    """A session with single-threaded runs, as many at once as there are slots; weights are in memory once."""

    def __init__(self, path: Path) -> None:
        """Load a model file; raise ConfigError for an invalid file, and for inputs other than one image."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            log.debug("ONNX Runtime refused %s", path, exc_info=error)
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{path}: ONNX Runtime can't load the file: {reason}") from error
        self.signature = self._read_signature(path)

    def _read_signature(self, path: Path) -> Signature:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            found = ", ".join(i.name for i in inputs)
            raise ConfigError(f"{path}: the model has the inputs {found}; it must have one, an image")
        (image,) = inputs
        if image.type not in DTYPES or len(image.shape) != 4:
            raise ConfigError(
                f"{path}: input {image.name} is {len(image.shape)}-D {image.type}; it must be 4-D, "
                f"of {', '.join(DTYPES)}"
            )
        return Signature(
            image.name,
            _free(image.shape),
            np.dtype(DTYPES[image.type]),
            {output.name: _free(output.shape) for output in self._session.get_outputs()},
        )

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`. An abort terminates the run through ONNX Runtime's RunOptions."""
        names = list(self.signature.outputs)
        options = None
        if abort is not None:
            options = ort.RunOptions()
            options.log_severity_level = 4  # the exception has the message
            abort.on_request(partial(setattr, options, "terminate", True))
        try:
            values = self._session.run(names, {self.signature.input: batch}, options)
        except Exception as error:
            raise BackendFailed("the model failed on this image") from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Do nothing: the session is released with its last reference."""


def _free(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape)
