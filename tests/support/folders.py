"""A folder of models of which some can't be served, each for its own reason."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.support.onnx_models import classifier, graph, write_model

GOOD, NO_YAML, GARBAGE, NO_RUN = "good", "no-yaml", "garbage", "no-run"
FAILED = (GARBAGE, NO_RUN, NO_YAML)
"""`no-run` fails when it is warmed up, the others when they are loaded."""
REASONS = {
    GARBAGE: "garbage/1/model.onnx: ONNX Runtime can't load the file: it is no ONNX file, or a damaged one",
    NO_RUN: "its file can't run",
    NO_YAML: "no-yaml/tta.yaml: is not valid YAML in line 2, column 1",
}
"""How what clients read begins."""
CONFIG = """\
task: classification
labels: [red, green, blue]
input: {size: [8, 8]}
output: {kind: logits}
budget: {default_ms: 2000, max_ms: 10000}
"""


def write_folder(folder: Path, *names: str, config: str = CONFIG) -> Path:
    """Write these models; return the folder."""
    for name in names:
        write_model(folder / name, _failing() if name == NO_RUN else classifier(), config)
    if NO_YAML in names:
        (folder / NO_YAML / "tta.yaml").write_text("task: [\n")
    if GARBAGE in names:
        (folder / GARBAGE / "1" / "model.onnx").write_bytes(b"no model")
    return folder


def mend(folder: Path, name: str) -> None:
    """Replace a model of the folder by one that works."""
    good = write_model(folder.parent / f"mended-{name}", classifier(), CONFIG)
    for file in ("tta.yaml", "1/model.onnx"):
        (folder / name / file).write_bytes((good / file).read_bytes())


def _failing() -> onnx.ModelProto:
    """Every run looks for an entry beyond the end of a list."""
    nodes = [
        helper.make_node("Constant", [], ["single"], value_floats=[0.0]),
        helper.make_node("Constant", [], ["far"], value_float=7.0),
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Add", ["most", "far"], ["beyond"]),
        helper.make_node("Cast", ["beyond"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["single", "index"], ["entry"]),
        helper.make_node("Add", ["means", "entry"], ["scores"]),
    ]
    declared = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    return graph(nodes, ("n", 3, 8, 8), "float32", [declared])
