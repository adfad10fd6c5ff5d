"""What the shape of the input says. It leaves much open: colours, normalisation."""

from collections.abc import Iterator

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Refusal
from tta_server.onboarding.model_file import ModelFile


def read_shapes(evidence: Evidence) -> Iterator[Finding]:
    """Layout, size and grey from the input."""
    file = evidence.file
    if file.others and file.refusal is None:
        names = ", ".join(file.others)
        yield Fact("input.name", file.inputs[0].name, f"the file's inputs are {file.inputs[0].name}, {names}")
        yield Fact("input.others", dict(file.others), "what inputs of these names are")
    if file.layout is None:
        return
    source = f"the file's input {file.inputs[0].name} is {file.inputs[0].text}"
    yield Fact("input.layout", file.layout, source)
    if file.image[1 if file.layout == "NCHW" else 3] == 1:
        yield Fact("input.color", "grey", source)
    height, width = file.size(file.layout)
    if height is not None and width is not None:
        yield Fact("input.size", [height, width], source)


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
