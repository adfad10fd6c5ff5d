"""A Triton repository for a model: `front`, the model's file, `tail` where its merge is a sum, and their ensemble."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tta_server.backends import Outputs
from tta_server.backends.external_data import copy_model
from tta_server.compiled.ensembles import parameters
from tta_server.compiled.front import front
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.triton_configs import (
    LADDER,
    MADE,
    MAP_NAMES,
    MODEL_OUTPUT,
    Step,
    TensorConfig,
    ensemble_config,
    model_config,
)
from tta_server.errors import BackendFailed, ConfigError
from tta_server.repository.graphs import TailKey
from tta_server.repository.model import WARM_SIZE, Model
from tta_server.tasks.sums import SumSpec
from tta_server.views.view import View

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class TritonModel:
    """A model of the repository: its config.pbtxt, and its file: bytes, or the path of one to be copied, or none."""

    name: str
    config: str
    content: bytes | Path | None = None


@dataclass(frozen=True, slots=True)
class _Graph:
    content: bytes
    inputs: Sequence[TensorConfig]
    outputs: Sequence[TensorConfig]


def batch_sizes(model: Model) -> Sequence[int]:
    """The batch sizes that Triton is asked to prefer; empty for a model file with a fixed batch of 1."""
    if model.backend.signature.shape[0] == 1:
        return ()
    return (model.backend.ladder or LADDER) if model.can_batch else (1,)


def triton_models(model: Model, folder: Path, spec: SumSpec | None) -> Sequence[TritonModel]:
    """Return all models for the model in `folder`; `spec` is how views are summed, None where rows are returned.

    Raises ConfigError for names that Triton doesn't take, and without the `onnx` package.
    """
    try:
        require_onnx()
    except ConfigError:
        raise ConfigError("an export needs the onnx package: run `pip install 'tta-server[compile]'`") from None
    if not NAME.fullmatch(model.name):
        raise ConfigError(
            f"{folder}: Triton takes no model of the name {model.name!r}; rename the folder to letters, digits, "
            "'_', '-' and '.', of which the first is a letter or a digit"
        )
    path = folder / model.version / "model.onnx"
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; only a model whose file is here can be exported")
    if not model.task.can_batch:
        raise ConfigError(
            f"{path}: the outputs have no batch axis, which an ensemble needs; export the model with padded outputs "
            "[N, M, 4], [N, M] and [N, M]"
        )
    if model.task.is_joined:
        raise ConfigError(
            f"{path}: one list has the boxes of all images, which an ensemble can't return; export the model with "
            "padded outputs [N, M, 4], [N, M] and [N, M]"
        )
    if others := model.backend.signature.other_inputs:
        raise ConfigError(
            f"{path}: the model takes {', '.join(others)} beside the image, which an ensemble does not make; export a "
            "model that takes the image alone"
        )
    return _Export(model, path, spec).models()


class _Export:
    def __init__(self, model: Model, path: Path, spec: SumSpec | None) -> None:
        self._model, self._path, self._spec = model, path, spec
        self._ladder = batch_sizes(model)
        self._front = _read_graph(front(model.preprocessing))
        self._outputs = _run_once(model)
        self._tail = self._make_tail(spec) if spec else None

    def models(self) -> Sequence[TritonModel]:
        name, made = self._model.name, self._front
        found = [
            TritonModel(f"{name}_front", model_config(f"{name}_front", made.inputs, made.outputs), made.content),
            TritonModel(name, self._model_config(), self._path),
        ]
        if self._tail:
            config = model_config(f"{name}_tail", self._tail.inputs, self._tail.outputs)
            # On the CPU: on a GPU its sums would be rounded to TF32.
            config += "instance_group { kind: KIND_CPU count: 1 }\n"
            found.append(TritonModel(f"{name}_tail", config, self._tail.content))
        config = self._summing_ensemble() if self._tail else self._row_ensemble()
        return [*found, TritonModel(f"{name}_tta", config)]

    def _make_tail(self, spec: SumSpec) -> _Graph:
        z = self._outputs[spec.output]
        if spec.offset is None:
            return _read_graph(TailKey(spec, z[0].size, z.dtype).to_bytes())
        return _read_graph(TailKey(spec, z.shape[1], z.dtype, exact_only=False).to_bytes())

    def _model_config(self) -> str:
        signature, skipped = self._model.backend.signature, 1 if self._ladder else 0
        image = TensorConfig(signature.input, signature.dtype, _dims(signature.shape)[skipped:])
        outputs = [self._output(name, value, skipped) for name, value in self._outputs.items()]
        return model_config(self._model.name, [image], outputs, self._ladder)

    def _output(self, name: str, value: np.ndarray[Any, Any], skipped: int) -> TensorConfig:
        """An output of the model, of one axis a row if a tail for vectors takes it."""
        spec, shape = self._spec, self._model.backend.signature.outputs[name]
        dims = _dims(shape if len(shape) == value.ndim else (None,) * value.ndim)
        if not spec or spec.output != name or spec.offset is not None or value.ndim == 2:
            return TensorConfig(name, value.dtype, dims[skipped:])
        return TensorConfig(name, value.dtype, [1, value[0].size][skipped:], value.shape[skipped:])

    def _front_step(self) -> Step:
        return Step(f"{self._model.name}_front", {each.name: each.name for each in self._front.inputs}, {"input": MADE})

    def _model_step(self, outputs: Mapping[str, str]) -> Step:
        return Step(self._model.name, {self._model.backend.signature.input: MADE}, outputs)

    def _summing_ensemble(self) -> str:
        assert self._tail is not None
        assert self._spec is not None
        own = MAP_NAMES if self._spec.offset is not None else {}
        names = {each.name: own.get(each.name, each.name) for each in self._tail.inputs}
        inputs = [each._replace(name=names[each.name]) for each in self._tail.inputs if each.name != "z"]
        last = Step(
            f"{self._model.name}_tail", names | {"z": MODEL_OUTPUT}, {e.name: e.name for e in self._tail.outputs}
        )
        steps = [self._front_step(), self._model_step({self._spec.output: MODEL_OUTPUT}), last]
        return self._ensemble([*self._front.inputs, *inputs], self._tail.outputs, steps)

    def _row_ensemble(self) -> str:
        taken = {MADE, *(each.name for each in self._front.inputs)}
        if clash := sorted(taken & self._outputs.keys()):
            raise ConfigError(
                f"{self._path}: output {clash[0]} has the name of an input of the ensemble; rename it in the file"
            )
        outputs = [self._output(name, value, 0) for name, value in self._outputs.items()]
        outputs = [each._replace(dims=[-1, *each.dims[1:]]) for each in outputs]
        steps = [self._front_step(), self._model_step({name: name for name in self._outputs})]
        return self._ensemble(self._front.inputs, outputs, steps)

    def _ensemble(self, inputs: Sequence[TensorConfig], outputs: Sequence[TensorConfig], steps: Sequence[Step]) -> str:
        stated = parameters(self._model.preprocessing, self._spec)
        return ensemble_config(f"{self._model.name}_tta", inputs, outputs, steps, stated)


def _dims(shape: Sequence[int | None]) -> list[int]:
    return [-1 if size is None else size for size in shape]


def _run_once(model: Model) -> Outputs:
    """The model's outputs for one black view, which have the shapes and types that its file may leave open."""
    batch = model.preprocessing.empty(1, model.preprocessing.place(View(), WARM_SIZE).tensor)
    batch.fill(0)
    try:
        return model.backend.infer(batch)
    except BackendFailed as error:
        raise ConfigError(
            f"model {model.name} fails on a black image of {WARM_SIZE}, so it can't be exported"
        ) from error


def _read_graph(content: bytes) -> _Graph:
    import onnx  # in an extra

    def tensors(infos: Any) -> list[TensorConfig]:
        found = []
        for info in infos:
            kind = info.type.tensor_type
            dims = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim]
            found.append(TensorConfig(info.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), dims))
        return found

    graph = onnx.load_from_string(content).graph
    return _Graph(content, tensors(graph.input), tensors(graph.output))


def check_target(to: Path, name: str, force: bool) -> None:
    """Raise ConfigError if the models for the model `name` may not be written into the folder `to`."""
    if to.exists() and not to.is_dir():
        raise ConfigError(f"{to}: is a file; give a folder that is empty or does not exist yet")
    if to.is_dir() and any(to.iterdir()) and not force:
        raise ConfigError(f"{to}: is not empty; give another folder, or --force to replace this model in it")
    for target in _targets(to, name):
        if target.exists() and (not (target / "config.pbtxt").is_file() or (target / "tta.yaml").exists()):
            raise ConfigError(f"{target}: is no model that was exported; give another folder")


def _targets(to: Path, name: str) -> list[Path]:
    return [to / f"{name}{suffix}" for suffix in ("", "_front", "_tail", "_tta")]


def write_models(to: Path, name: str, models: Sequence[TritonModel]) -> None:
    """Write the models for the model `name` into a folder, in place of those written before. Raises OSError."""
    for target in _targets(to, name):
        if target.exists():
            shutil.rmtree(target)
    for each in models:
        version = to / each.name / "1"
        version.mkdir(parents=True)
        (to / each.name / "config.pbtxt").write_text(each.config, "utf-8")
        if isinstance(each.content, bytes):
            (version / "model.onnx").write_bytes(each.content)
        elif each.content is not None:
            copy_model(each.content, version)
