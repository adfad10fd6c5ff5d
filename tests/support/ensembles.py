"""Triton repositories on disk, read and run step by step with onnxruntime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from tta_server.repository.loader import load_model
from tta_server.repository.triton_export import triton_models, write_models
from tta_server.serving.ensemble import ensemble_plan

Arrays = Mapping[str, NDArray[np.generic]]
KINDS = {
    "tensor(float)": "FP32",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
}


def export(source: Path, repository: Path) -> None:
    """Write what is exported for the model in a folder."""
    model = load_model(source)
    write_models(repository, model.name, triton_models(model, source, ensemble_plan(model).sums))


def read_config(repository: Path, name: str) -> ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text("utf-8"), ModelConfig())


def open_model(repository: Path, name: str) -> ort.InferenceSession:
    """Its session, once the names, types and shapes in its config are those of its file."""
    config = read_config(repository, name)
    session = ort.InferenceSession(repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    batched = 1 if config.max_batch_size else 0
    for stated, own in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [each.name for each in stated] == [each.name for each in own]
        for tensor, real in zip(stated, own, strict=True):
            assert DataType.Name(tensor.data_type) == f"TYPE_{KINDS.get(real.type, real.type)}"
            shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            sizes = [size if isinstance(size, int) else -1 for size in real.shape[batched:]]
            assert all(b in (a, -1) for a, b in zip(shape, sizes, strict=True))
    return session


class Ensemble:
    """Runs an ensemble as Triton does: each step by the names in its config."""

    def __init__(self, repository: Path, name: str) -> None:
        self._config = read_config(repository, name)
        self._steps = [
            (step, read_config(repository, step.model_name), open_model(repository, step.model_name))
            for step in self._config.ensemble_scheduling.step
        ]

    def infer(self, inputs: Arrays) -> Arrays:
        """Its outputs. Inputs must be those in its config, of these types and numbers of axes."""
        stated = {each.name: each for each in self._config.input}
        assert inputs.keys() == stated.keys()
        for name, value in inputs.items():
            dims = list(stated[name].dims)
            assert all(size in (-1, found) for size, found in zip(dims, value.shape, strict=True)), name
        tensors = dict(inputs)
        for step, config, session in self._steps:
            given = {own: tensors[outer] for own, outer in step.input_map.items()}
            assert config.max_batch_size in (0, *range(len(next(iter(given.values()))), 65))
            names = list(step.output_map)
            for name, value in zip(names, session.run(names, given), strict=True):
                tensors[step.output_map[name]] = self._reshaped(config, name, value)
        return {each.name: tensors[each.name] for each in self._config.output}

    def _reshaped(self, config: ModelConfig, name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
        (stated,) = [each for each in config.output if each.name == name]
        if not stated.HasField("reshape"):
            return value
        return value.reshape(*(value.shape[:1] if config.max_batch_size else ()), *stated.dims)
