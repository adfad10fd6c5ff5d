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
from tta_server.backends.inputs import Frame, InputNames, OtherInput, make_inputs, mistake, undeclared
from tta_server.errors import BackendFailed, ConfigError

log = logging.getLogger(__name__)

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
"""Of images."""
OTHER_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **DTYPES,
}
"""Of inputs beside an image."""
HEIGHT_AXIS = {"NCHW": 2, "NHWC": 1}
ONLY_IMAGE = InputNames()


class OnnxRuntimeBackend:
    """A session whose runs take one thread each, or a few; slots share it, so that weights are in memory once.

    The files may be overwritten, truncated or deleted once it is made.
    """

    device = CPU
    permits = 0
    ladder: Sequence[int] = ()
    where = ""

    def __init__(self, path: Path, by: RunOptions = DEFAULT_OPTIONS) -> None:
        """Load a model file; raise ConfigError for an invalid file, and for inputs that are not declared."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = by.threads, 1
        if by.threads > 1:  # a thread that waits for others leaves its core to decoding
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = open_file(path, options, ["CPUExecutionProvider"])
        self.signature = read_signature(path, self._session, (3, 4), by.inputs)
        image = next(each for each in self._session.get_inputs() if each.name == self.signature.input)
        self._has_batch_axis = len(image.shape) == 4
        self._height_axis = HEIGHT_AXIS[by.inputs.layout]

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`. An abort terminates the run through ONNX Runtime's RunOptions."""
        return self.infer_framed(batch, (), abort)

    def infer_framed(self, batch: Tensor, frames: Sequence[Frame], abort: Abort | None = None) -> Outputs:
        """Run a batch; see `FramedBackend.infer_framed`."""
        names = list(self.signature.outputs)
        options = ort.RunOptions()
        options.log_severity_level = 4  # the exception has the message
        if abort is not None:
            abort.on_request(partial(setattr, options, "terminate", True))
        inputs = {self.signature.input: batch if self._has_batch_axis else batch[0]}
        if self.signature.other_inputs:
            height, width = batch.shape[self._height_axis : self._height_axis + 2]
            inputs |= make_inputs(self.signature.other_inputs, len(batch), (height, width), frames)
        try:
            values = self._session.run(names, inputs, options)
        except Exception as error:
            raise BackendFailed("the model failed on this image") from error
        return dict(zip(names, values if self._has_batch_axis else [value[None] for value in values], strict=True))

    def close(self) -> None:
        """Do nothing: the session is released with its last reference."""


def read_signature(
    path: Path, session: ort.InferenceSession, axes: Sequence[int] = (4,), names: InputNames = ONLY_IMAGE
) -> Signature:
    """Return what a session of a model file takes and gives; raise ConfigError for inputs that `names` do not declare.

    `axes` are the numbers of axes that the image may have. With 3, of which one is a channel axis of 1 or 3, input and
    outputs have no batch axis; they are given one of 1.
    """
    try:
        image, others = _read_inputs(session.get_inputs(), names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    is_alone = not others and len(image.shape) == 3 and any(image.shape[axis] in (1, 3) for axis in (0, 2))
    if image.type not in DTYPES or len(image.shape) not in axes or len(image.shape) != (3 if is_alone else 4):
        raise ConfigError(
            f"{path}: input {image.name} is {len(image.shape)}-D {image.type}; it must be 4-D, of {', '.join(DTYPES)}"
        )
    shape = _free(image.shape)
    height = HEIGHT_AXIS[names.layout]
    for name, one in others.items():
        if wrong := mistake(name, one, (shape[height], shape[height + 1])):
            raise ConfigError(f"{path}: {wrong}")
    if any(one.shape[:1] == (1,) for one in others.values()):
        shape = (1, *shape[1:])
    outputs = session.get_outputs()
    batch = (1,) if is_alone else ()
    tensors = {output.name: (*batch, *_free(output.shape)) for output in outputs if output.type.startswith("tensor(")}
    kinds = {output.name: output.type for output in outputs if output.name not in tensors}
    signature = Signature(image.name, (*batch, *shape), np.dtype(DTYPES[image.type]), tensors, kinds, others)
    if not tensors:
        raise ConfigError(f"{path}: {signature.advice}")
    return signature


def _read_inputs(inputs: Sequence[ort.NodeArg], names: InputNames) -> tuple[ort.NodeArg, dict[str, OtherInput]]:
    """The image, and all others by name; raises ConfigError."""
    by_name = {one.name: one for one in inputs}
    for key, name in (("name", names.image), *(("others", name) for name in names.others)):
        if name is not None and name not in by_name:
            raise ConfigError(f"input.{key} has {name}, but the model file takes {', '.join(by_name)}; remove it")
    image = by_name[names.image or _image_of(inputs, names)]
    if image.name in names.others:
        raise ConfigError(f"input.others has {image.name}, which is the image; remove it there")
    rest = [one for one in inputs if one.name != image.name]
    if missing := [one.name for one in rest if one.name not in names.others]:
        raise ConfigError(undeclared(missing))
    return image, {one.name: _other_input(one, names) for one in rest}


def _image_of(inputs: Sequence[ort.NodeArg], names: InputNames) -> str:
    """The name of the only input that may be the image; raises ConfigError."""
    open_ = [one for one in inputs if one.name not in names.others] or inputs
    fitting = [one for one in open_ if one.type in DTYPES and len(one.shape) == 4]
    found = open_ if len(open_) == 1 else fitting
    if len(found) != 1:
        listed = ", ".join(one.name for one in open_)
        raise ConfigError(f"the model file takes {listed}; set input.name to the one that takes the image")
    return str(found[0].name)


def _other_input(one: ort.NodeArg, names: InputNames) -> OtherInput:
    if one.type not in OTHER_DTYPES:
        raise ConfigError(f"input.others has {one.name}, which is {one.type}; allowed: {', '.join(OTHER_DTYPES)}")
    return OtherInput(names.others[one.name], _free(one.shape), np.dtype(OTHER_DTYPES[one.type]))


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
        if "INVALID_PROTOBUF" in reason:
            reason = "it is no ONNX file, or a damaged one; export or download it again"
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
