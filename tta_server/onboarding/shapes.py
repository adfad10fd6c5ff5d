"""What names and shapes of inputs and outputs say. They leave much open: colours, normalisation, what scores mean."""

from collections.abc import Iterator

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Refusal
from tta_server.onboarding.model_file import ModelFile, TensorInfo


def read_shapes(evidence: Evidence) -> Iterator[Finding]:
    """Layout, size and grey from the input; a detector from its outputs' names."""
    file = evidence.file
    if file.layout is None:
        return
    source = f"the file's input {file.inputs[0].name} is {file.inputs[0].text}"
    yield Fact("input.layout", file.layout, source)
    if file.image[1 if file.layout == "NCHW" else 3] == 1:
        yield Fact("input.color", "grey", source)
    height, width = file.size(file.layout)
    if height is not None and width is not None:
        yield Fact("input.size", [height, width], source)
    yield from _boxes(file)


def pytorch_layout(file: ModelFile, source: str) -> Iterator[Finding]:
    """NCHW, which a description of a PyTorch model implies; a file that is NHWC comes from another framework."""
    if file.layout == "NHWC":
        yield Refusal(
            "input.layout",
            f"{source} take NCHW, but the file's input {file.inputs[0].name} is {file.inputs[0].text}, so it was "
            "exported from another framework, whose colours, normalisation and outputs may differ; state --set "
            "input.layout=NHWC if they are the same",
        )
    else:
        yield Fact("input.layout", "NCHW", source)


def _boxes(file: ModelFile) -> Iterator[Finding]:
    """Outputs named boxes, scores and labels."""
    found = {output.name: output for output in file.tensors}
    if not {"boxes", "scores"} <= found.keys() or not _are_boxes(found["boxes"]):
        return
    names = [name for name in ("boxes", "scores", "labels") if name in found]
    source = f"the file's outputs {', '.join(names)}"
    yield Fact("task", "detection", source)
    for name in names:
        yield Fact(f"output.{name}", name, source)


def _are_boxes(output: TensorInfo) -> bool:
    return len(output.sizes) == 3 and output.sizes[2] in (None, 4)
