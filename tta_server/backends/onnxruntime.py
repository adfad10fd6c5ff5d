"""ONNX Runtime on the CPU: one session per model, shared by all slots; a run uses its caller's thread, or a few."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort

from tta_server.backends.base import CPU, DEFAULT_OPTIONS, Outputs, RunOptions, Signature, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.external_data import external_files, find_references
from tta_server.errors import BackendFailed, ConfigError

log = logging.getLogger(__name__)

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OnnxRuntimeBackend:
    """A session whose runs take one thread each, or a few; slots share it, so that weights are in memory once.

    The files may be overwritten, truncated or deleted once it is made.
    """

    device = CPU
    permits = 0
    ladder: Sequence[int] = ()
    where = ""

    def __init__(self, path: Path, by: RunOptions = DEFAULT_OPTIONS) -> None:
        """Load a model file; raise ConfigError for an invalid file, and for inputs other than one image."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = by.threads, 1
        if by.threads > 1:  # a thread that waits for others leaves its core to decoding
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = open_file(path, options, ["CPUExecutionProvider"])
        self.signature = read_signature(path, self._session, (3, 4))
        self._has_batch_axis = len(self._session.get_inputs()[0].shape) == 4

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`. An abort terminates the run through ONNX Runtime's RunOptions."""
        names = list(self.signature.outputs)
        options = ort.RunOptions()
        options.log_severity_level = 4  # the exception has the message
        if abort is not None:
            abort.on_request(partial(setattr, options, "terminate", True))
        image = batch if self._has_batch_axis else batch[0]
        try:
            values = self._session.run(names, {self.signature.input: image}, options)
        except Exception as error:
            raise BackendFailed("the model failed on this image") from error
        return dict(zip(names, values if self._has_batch_axis else [value[None] for value in values], strict=True))

    def close(self) -> None:
        """Do nothing: the session is released with its last reference."""


def read_signature(path: Path, session: ort.InferenceSession, axes: Sequence[int] = (4,)) -> Signature:
    """Return what a session of a model file takes and gives; raise ConfigError for inputs other than one image.

    `axes` are the numbers of axes that the image may have. With 3, of which one is a channel axis of 1 or 3, input and
    outputs have no batch axis; they are given one of 1.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        found = ", ".join(i.name for i in inputs)
        raise ConfigError(f"{path}: the model has the inputs {found}; it must have one, an image")
    (image,) = inputs
    is_alone = len(image.shape) == 3 and any(image.shape[axis] in (1, 3) for axis in (0, 2))
    if image.type not in DTYPES or len(image.shape) not in axes or len(image.shape) != (3 if is_alone else 4):
        raise ConfigError(
            f"{path}: input {image.name} is {len(image.shape)}-D {image.type}; it must be 4-D, of {', '.join(DTYPES)}"
        )
    outputs = session.get_outputs()
    batch = (1,) if is_alone else ()
    tensors = {output.name: (*batch, *_free(output.shape)) for output in outputs if output.type.startswith("tensor(")}
    others = {output.name: output.type for output in outputs if output.name not in tensors}
    signature = Signature(image.name, (*batch, *_free(image.shape)), np.dtype(DTYPES[image.type]), tensors, others)
    if not tensors:
        raise ConfigError(f"{path}: {signature.advice}")
    return signature


Providers = Sequence[str | tuple[str, Mapping[str, str]]]


def open_file(path: Path, options: ort.SessionOptions, providers: Providers) -> ort.InferenceSession:
    """Create a session that maps none of the model's files: else a file truncated later would end the process.

    Raise ConfigError for a file that can't be read or loaded.

    ONNX Runtime reads a model file, but maps external data. It copies external data given from memory; that reaches
    only initializers of the main graph, and the weights are in memory twice until the session is made. For others it
    maps a private copy, which is unlinked at once.
    """
    references = find_references(_read(path))
    files = external_files(path, references)
    if not files:
        return _create(path, path, options, providers)
    if all(reference.is_initializer for reference in references) and hasattr(options, FROM_MEMORY):
        contents = [_read(file) for file in files.values()]
        getattr(options, FROM_MEMORY)(list(files), contents, [len(content) for content in contents])
        return _create(path, path, options, providers)
    with TemporaryDirectory(prefix="tta-server-", ignore_cleanup_errors=True) as folder:
        return _create(path, _copy(path, files, Path(folder)), options, providers)


FROM_MEMORY = "add_external_initializers_from_files_in_memory"
"""The method of SessionOptions that takes external data from memory; ONNX Runtime before 1.24 lacks it."""


def _create(path: Path, file: Path, options: ort.SessionOptions, providers: Providers) -> ort.InferenceSession:
    """Create a session from `file`; raise ConfigError that names `path`."""
    try:
        return ort.InferenceSession(str(file), options, providers=list(providers), enable_fallback=False)
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        log.debug("ONNX Runtime refused %s", path, exc_info=error)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: ONNX Runtime can't load the file: {reason}") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error


def _copy(path: Path, files: Mapping[str, Path], folder: Path) -> Path:
    """Copy a model file and its external data into a folder; return the copy of the model file."""
    try:
        for location, file in {path.name: path, **files}.items():
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / location)
    except OSError as error:
        raise ConfigError(
            f"{path}: the model needs a temporary copy of its external data, which can't be made: {error.strerror}; "
            "free space in the folder for temporary files (TMPDIR), or save the model with its weights inside"
        ) from error
    return folder / path.name


def _free(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape)
