"""Triton's config.pbtxt: protobuf text of a ModelConfig (triton-inference-server/common, protobuf/model_config.proto).

`dims` leave out the batch axis where max_batch_size is over 0; -1 is a free axis; `format` is the order of an image's
axes; `reshape` is what the backend gets instead of `dims`. `label_filename` is a file beside config.pbtxt with one name
a line, of an output that "represents classifications". Nothing says how images are normalised.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.readers.labels import label_facts

NAME = "config.pbtxt"
ENDING = ".pbtxt"
LABELS = "labels by file"
"""Key of a document's content beside the fields of ModelConfig: name of a file of labels -> its lines."""
LAYOUTS = {"FORMAT_NCHW": "NCHW", "FORMAT_NHWC": "NHWC"}
CHANNELS = {"NCHW": 0, "NHWC": 2}
"""Layout -> the axis of channels in an image without a batch axis."""


def parse_config(text: str) -> dict[str, Any]:
    """Return the fields by name; raise ValueError that says where the text is no ModelConfig.

    Fields that are not known, of newer versions, are left out.
    """
    try:
        found = text_format.Parse(text, ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        line = error.GetLine()
        raise ValueError(f"is not a ModelConfig in protobuf text{f' in line {line}' if line else ''}") from None
    except (RecursionError, UnicodeError):
        raise ValueError("is not a ModelConfig in protobuf text") from None
    content: dict[str, Any] = MessageToDict(found, preserving_proto_field_name=True)
    return content


def label_files(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the files of labels, of outputs in their order."""
    names = [output.get("label_filename", "") for output in content.get("output", [])]
    return [name for name in dict.fromkeys(names) if name and PurePath(name).name == name]


def read_triton(evidence: Evidence) -> Iterator[Finding]:
    """Layout and size of the image input, and the labels of an output."""
    for document in evidence.documents:
        if document.name.endswith(ENDING) and isinstance(document.content, dict):
            yield from _config(document.name, document.content, evidence)
            return


def _config(name: str, content: Mapping[str, Any], evidence: Evidence) -> Iterator[Finding]:
    inputs = {each.get("name", ""): each for each in content.get("input", [])}
    taken = [each.name for each in evidence.file.inputs]
    if inputs and not inputs.keys() & set(taken):
        yield Note(
            f"{name}: describes a model with the inputs {', '.join(inputs)}, but the file has {', '.join(taken)}; it "
            "is ignored"
        )
        return
    is_batched = int(content.get("max_batch_size", 0)) > 0
    for key in taken:
        if key in inputs and (shape := _image(inputs[key], is_batched)):
            yield from _input(f"{name}: input {key}", inputs[key], shape)
            break
    yield from _labels(name, content, len(evidence.file.tensors) > 1)


def _sides(tensor: Mapping[str, Any]) -> list[int]:
    """`dims`, or those that the backend gets."""
    reshaped = tensor.get("reshape", {}).get("shape")
    return [int(side) for side in reshaped or tensor.get("dims", [])]


def _image(tensor: Mapping[str, Any], is_batched: bool) -> list[int]:
    """Three sides of an image without the batch axis; empty if the tensor is none."""
    sides = _sides(tensor)
    if not is_batched and len(sides) == 4:
        return sides[1:]
    return sides if len(sides) == 3 else []


def _input(source: str, tensor: Mapping[str, Any], sides: Sequence[int]) -> Iterator[Finding]:
    stated = LAYOUTS.get(tensor.get("format", ""))
    fits = [layout for layout, axis in CHANNELS.items() if sides[axis] in (1, 3)]
    if stated and stated not in fits and sides[CHANNELS[stated]] != -1:
        yield Refusal("input.layout", f"{source} has format {tensor['format']}, which dims {list(sides)} contradict")
        return
    layout = stated or (fits[0] if len(fits) == 1 else None)
    if layout is None:
        return
    yield Fact("input.layout", layout, f"{source}: {f'format {layout}' if stated else f'dims {list(sides)}'}")
    if sides[CHANNELS[layout]] == 1:
        yield Fact("input.color", "grey", f"{source}: dims {list(sides)}")
    size = [side for axis, side in enumerate(sides) if axis != CHANNELS[layout]]
    if min(size) > 0:
        yield Fact("input.size", size, f"{source}: dims {list(sides)}")


def _labels(name: str, content: Mapping[str, Any], has_several: bool) -> Iterator[Finding]:
    """Labels of the first output that has them, and its name, if it has a value for each."""
    for output in content.get("output", []):
        file, key = output.get("label_filename", ""), output.get("name", "")
        names = content.get(LABELS, {}).get(file)
        if names:
            yield from label_facts(names, f"{name}: label_filename of output {key} is {file}, {len(names)} lines")
            if has_several and [side for side in _sides(output) if side != 1] == [len(names)]:
                yield Fact("output.name", key, f"{name}: output {key} has a label_filename")
            return
        if file:
            yield Note(f"{name}: label_filename is {file}, which does not lie beside it; state it with --labels FILE")
