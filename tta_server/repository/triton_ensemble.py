"""An ensemble in a Triton server that makes a model's views and sums its outputs, checked against tta.yaml."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tta_server.backends import Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.triton import EnsembleInfo, TensorInfo
from tta_server.compiled.ensembles import (
    SUMS,
    VIEWS,
    Tensors,
    ensemble_inputs,
    ensemble_outputs,
    read_sums,
    stated_sums,
    stated_views,
)
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ResponseSpec, Task
from tta_server.tasks.sums import SumSpec

AGAIN = "run `tta-server export-triton` again with this tta.yaml, or set views: local"

Infer = Callable[[Mapping[str, Tensor], Collection[str], Abort | None], Outputs]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Runs the ensemble; `spec` is how it sums the views of an image, None where it gives the model's outputs."""

    infer: Infer
    spec: SumSpec | None


def check_ensemble(
    info: EnsembleInfo, preprocessing: Preprocessing, task: Task[Any, Any], merge: str
) -> SumSpec | None:
    """Return how an ensemble sums views; raise ConfigError if tta.yaml asks for other views or sums.

    One without sums fits every merge.
    """
    made, sums = (_stated(info, name) for name in (VIEWS, SUMS))
    _compare(made, stated_views(preprocessing), "")
    own = task.sums(merge, ResponseSpec())
    if sums and own is None:
        raise ConfigError(
            f"backend.model is an ensemble that sums {json.dumps(sums.get('score'))}, and merge {merge} of this "
            f"tta.yaml needs each view's output; {AGAIN}"
        )
    if sums:
        _compare(sums, stated_sums(own), f" (merge {merge})")
    spec = read_sums(sums)
    _check_tensors("inputs", info.inputs, ensemble_inputs(preprocessing, spec))
    return spec


def check_outputs(info: EnsembleInfo, model: Collection[str], spec: SumSpec | None) -> None:
    """Raise ConfigError unless an ensemble gives its sums by `spec`, or else the outputs of these names."""
    if spec is not None:
        _check_tensors("outputs", info.outputs, ensemble_outputs(spec))
    elif missing := sorted(set(model) - info.outputs.keys()):
        raise ConfigError(
            f"backend.model is an ensemble with the outputs {_listed(info.outputs)}, without {missing[0]} of the model "
            f"in it; {AGAIN}"
        )


def _stated(info: EnsembleInfo, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(info.parameters[name])
    except (KeyError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"backend.model is an ensemble that does not state what it was made for: this version did not export it; "
            f"{AGAIN}"
        )
    return found


def _compare(found: Mapping[str, Any], own: Mapping[str, Any], of: str) -> None:
    for key in sorted(own.keys() | found.keys()):
        there, here = found.get(key), own.get(key)
        if key == "columns" and there != here:
            raise ConfigError(f"backend.model is an ensemble that another version of tta-server exported; {AGAIN}")
        if there != here:
            raise ConfigError(
                f"backend.model is an ensemble made for {key} {json.dumps(there)}, and this tta.yaml needs "
                f"{json.dumps(here)}{of}; {AGAIN}"
            )


def _check_tensors(kind: str, found: Mapping[str, TensorInfo], own: Tensors) -> None:
    if found.keys() == own.keys() and all(_fits(found[name], TensorInfo(*own[name])) for name in own):
        return
    raise ConfigError(
        f"backend.model is an ensemble with the {kind} {_listed(found)}; this tta.yaml needs "
        f"{_listed({name: TensorInfo(*each) for name, each in own.items()})}; {AGAIN}"
    )


def _fits(found: TensorInfo, own: TensorInfo) -> bool:
    return (
        found.datatype == own.datatype
        and len(found.shape) == len(own.shape)
        and all(a == b or -1 in (a, b) for a, b in zip(found.shape, own.shape, strict=True))
    )


def _listed(tensors: Mapping[str, TensorInfo]) -> str:
    return ", ".join(f"{name} {each.datatype} {list(each.shape)}" for name, each in sorted(tensors.items()))
