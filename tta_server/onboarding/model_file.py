"""What an ONNX file states of itself: inputs, outputs, metadata. Read by ONNX Runtime, without the onnx package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort

from tta_server.backends.inputs import LIKELY, FunctionName, InputNames
from tta_server.backends.onnxruntime import open_file, read_signature
from tta_server.errors import ConfigError
from tta_server.tasks.shapes import format_shape

Shape = tuple[int | None, ...]
LONGEST = 20
"""Characters of a free axis' name that is shown."""
SPATIAL = {"NCHW": (2, 3), "NHWC": (1, 2)}
"""Layout -> the axes of height and width."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: `shape` as the file writes it, with names for free axes."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def text(self) -> str:
        """The shape for people; exporters may write whole formulas for free axes."""
        return format_shape([None if isinstance(size, str) and len(size) > LONGEST else size for size in self.shape])

    @property
    def sizes(self) -> Shape:
        """The shape, None for free axes."""
        return tuple(size if isinstance(size, int) and size > 0 else None for size in self.shape)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The image is the first of `inputs`, `others` are functions for those beside it.

    `refusal` is why the server does not take a file with these inputs, if it does not.
    """

    path: Path
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None
    others: Mapping[str, FunctionName] = field(default_factory=dict)

    @property
    def tensors(self) -> Sequence[TensorInfo]:
        """The outputs that are tensors."""
        return [output for output in self.outputs if output.type.startswith("tensor(")]

    @property
    def input_names(self) -> InputNames:
        """How a backend tells the image's input from others."""
        return InputNames(self.inputs[0].name, self.others, self.layout or "NCHW")

    @property
    def image(self) -> Shape:
        """Shape of the image input, with a batch axis; empty if the file has no such input."""
        if self.refusal is not None:
            return ()
        sizes = self.inputs[0].sizes
        return sizes if len(sizes) == 4 else (1, *sizes)

    @property
    def has_fixed_batch(self) -> bool:
        """Whether the file takes one image at a time."""
        return self.image[:1] == (1,)

    @property
    def layout(self) -> str | None:
        """NCHW or NHWC by the axis of 1 or 3 channels; None if both or neither could be."""
        fits = [layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if self.image and self.image[axis] in (1, 3)]
        return fits[0] if len(fits) == 1 else None

    def size(self, layout: str) -> tuple[int | None, int | None]:
        """Height and width of the input; None is a free axis."""
        if not self.image:
            return None, None
        height, width = SPATIAL[layout]
        return self.image[height], self.image[width]

    def tensor_shape(self, side: int) -> tuple[int, ...]:
        """Shape of a tensor for the image input, with a batch axis; free axes are 1 image, 3 channels and `side`."""
        usual = (1, side, side, 3) if self.layout == "NHWC" else (1, 3, side, side)
        return tuple(size or default for size, default in zip(self.image, usual, strict=True))


def read_model_file(path: Path) -> ModelFile:
    """Open a file; raise ConfigError for a folder, and if ONNX Runtime can't."""
    if path.is_dir():
        inside = sorted(each.name for each in path.glob("*.onnx"))
        raise ConfigError(f"{path}: is a folder; name the ONNX file in it{': ' if inside else ''}{', '.join(inside)}")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = open_file(path, options, ["CPUExecutionProvider"])
    inputs, outputs = (
        [TensorInfo(one.name, one.type, tuple(one.shape)) for one in found]
        for found in (session.get_inputs(), session.get_outputs())
    )
    others = {one.name: LIKELY[one.name] for one in inputs if one.name in LIKELY and len(inputs) > 1}
    try:
        signature = read_signature(path, session, (3, 4), InputNames(None, others))
        inputs.sort(key=lambda one: one.name != signature.input)
        refusal = None
    except ConfigError as error:
        refusal = str(error)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    return ModelFile(path, inputs, outputs, metadata, refusal, others)
