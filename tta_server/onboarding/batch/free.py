"""Frees a batch axis that is fixed at 1: the file is changed, and shown to give for several images what it gives alone.

Nodes that state one image in a constant are changed; kinds of nodes that may mix images are refused. Then shapes are
inferred, and a batch of different images must equal runs one by one.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.onboarding.batch.graph import LARGEST, apply_edits, constants
from tta_server.onboarding.batch.runs import Arrays, Runner, differing, make_images, with_all_outputs
from tta_server.onboarding.batch.step import Known, Mixed, Rows
from tta_server.onboarding.batch.walk import Plan, plan_edits
from tta_server.onboarding.model_file import ModelFile

if TYPE_CHECKING:
    from onnx import ModelProto

FIXED = (
    "the file's batch axis is fixed at 1: views and requests run one by one, and batches across clients are lost; "
    "export it with a free batch axis, or let `tta-server init --free-batch` free it where that can be shown to be "
    "right"
)


def free_batch(file: ModelFile) -> bytes:
    """Return the file's content with a free batch axis; raise ConfigError with the reason if that can't be shown right.

    The weights stay as they are, those outside the file too.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError("--free-batch needs the onnx package: run `pip install 'tta-server[compile]'`") from None
    original = file.path.read_bytes()
    try:
        return _freed(file, original, onnx.load_model_from_string(original))
    except Mixed as reason:
        raise ConfigError(f"{file.path}: the batch axis can't be freed: {reason}") from None


def _freed(file: ModelFile, original: bytes, model: "ModelProto") -> bytes:
    if len(file.inputs) > 1:
        raise Mixed(
            f"the file has the inputs {', '.join(each.name for each in file.inputs)}; one, an image, can be freed"
        )
    if len(file.inputs[0].shape) == 3:
        sides = ", ".join(map(str, file.inputs[0].shape))
        raise Mixed(f"input {file.inputs[0].name} has none; export it with shape [N, {sides}]")
    images, image = make_images(file), file.inputs[0].name
    known = _known(file, model, images[0])
    plan = plan_edits(model, known, image)
    changed = type(model)()
    changed.CopyFrom(model)
    apply_edits(changed, plan, known, image)
    _check_inference(changed)
    content = changed.SerializeToString()
    _check_runs(file, (original, content), images)
    _check_watched(file, changed, plan, known, np.concatenate(images))
    return content


def _known(file: ModelFile, model: "ModelProto", image: NDArray[Any]) -> Known:
    """What a run of one image shows."""
    values = dict(constants(model.graph))
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    names = [name for node in model.graph.node for name in node.output if name]
    found = _run(Runner(file.path, with_all_outputs(model, names)), image)
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            shapes[name] = value.shape
            if value.size <= LARGEST:
                values[name] = value
    shapes[file.inputs[0].name] = image.shape
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    return Known(shapes, values, opset, None not in file.image[1:])


def _run(runner: Runner, images: NDArray[Any]) -> Arrays:
    try:
        return runner.run(images)
    except Exception as error:
        text = str(error).splitlines()[0]
        raise Mixed(f"ONNX Runtime can't run {len(images)} images: {text[:300]}") from error


def _check_inference(model: "ModelProto") -> None:
    """Raises Mixed if shape inference contradicts the free axis of an output."""
    from onnx import ModelProto, shape_inference

    bare = ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except Exception as error:
        raise Mixed(f"shape inference fails: {str(error).splitlines()[0][:300]}") from error
    for output in inferred.graph.output:
        dims = output.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_value"):
            raise Mixed(f"shape inference gives output {output.name} {dims[0].dim_value} rows for any number of images")


def _check_runs(file: ModelFile, contents: tuple[bytes, bytes], images: list[NDArray[Any]]) -> None:
    """Raises Mixed unless a batch equals runs of the original one by one."""
    original, changed = (Runner(file.path, content) for content in contents)
    alone = [_run(original, image) for image in images]
    rows = dict.fromkeys(original.outputs, Rows(0))
    for together, parts in ((np.concatenate(images), alone), (images[0], alone[:1])):
        name = differing(_run(changed, together), parts, rows)
        if name is not None:
            raise Mixed(f"output {name} of {len(parts)} images together differs from that of each alone")


def _check_watched(file: ModelFile, model: "ModelProto", plan: Plan, known: Known, images: NDArray[Any]) -> None:
    """Raises Mixed if a shape that the graph computes is not as expected."""
    if not plan.watched:
        return
    found = _run(Runner(file.path, with_all_outputs(model, plan.watched)), images)
    for name in plan.watched:
        rows, expected = known.rows[name], list(known.shapes[name])
        expected[rows.axis] *= len(images)
        if list(found[name].shape) != expected:
            raise Mixed(f"{name} is {list(found[name].shape)} for {len(images)} images, not {expected}")
