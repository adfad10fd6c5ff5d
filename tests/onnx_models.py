"""Tiny models made with the onnx package: real files, loaded and run as any other."""

from pathlib import Path

import yaml
from onnx import TensorProto, helper, save

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def classifier(shape=("n", 3, 8, 8), dtype="float32", classes=3, outputs=("scores",)):
    """Means of the channels, as many classes as channels; `classes` beside 3 only changes what the file states."""
    axes = [1, 2] if shape[-1] in (1, 3) else [2, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        *(helper.make_node("ReduceMean", ["cast"], [name], axes=axes, keepdims=0) for name in outputs),
    ]
    stated = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes]) for name in outputs]
    return graph(nodes, shape, dtype, stated)


def segmenter(shape=("n", 3, "h", "w"), dtype="float32"):
    """The image itself: the red, green and blue of a pixel are its scores for three classes."""
    nodes = [helper.make_node("Cast", ["image"], ["maps"], to=TensorProto.FLOAT)]
    return graph(nodes, shape, dtype, [helper.make_tensor_value_info("maps", TensorProto.FLOAT, list(shape))])


def graph(nodes, shape, dtype, outputs, inputs=("image",)):
    given = [helper.make_tensor_value_info(name, DTYPES[dtype], list(shape)) for name in inputs]
    made = helper.make_graph(nodes, "tiny", given, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_model(folder: Path, model, config, version="1") -> Path:
    """models/<name>/{tta.yaml, 1/model.onnx}; `config` is YAML text or what it would say."""
    (folder / version).mkdir(parents=True)
    save(model, folder / version / "model.onnx")
    (folder / "tta.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return folder
