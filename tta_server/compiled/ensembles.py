"""What an exported ensemble takes and gives, and what it states of the tta.yaml that its graphs were made for."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import DTypeLike

from tta_server.compiled.map_rows import MAP_WIDTH, MapColumn
from tta_server.compiled.rows import WIDTH, Column
from tta_server.compiled.triton_configs import MAP_NAMES, type_name
from tta_server.imaging.padding import Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks.points.heatmaps import PEAK_COLUMNS
from tta_server.tasks.sums import Score, Soundness, SumSpec

VIEWS, SUMS = "tta_views", "tta_sums"
"""Parameters of the ensemble's config: JSON of what its front and its tail were made for."""

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Triton's name of the type and the shape, -1 for free axes, by name."""


def stated_views(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return all that a front depends on, as JSON has it."""
    by = preprocessing.normalization
    found = {
        "columns": _columns(Column, WIDTH),
        "color": str(preprocessing.channels),
        "scale": by.scale,
        "mean": by.mean,
        "std": by.std,
        "layout": preprocessing.layout,
        "dtype": str(preprocessing.dtype),
    }
    if preprocessing.resize is Resize.LETTERBOX:
        found["letterbox_fill"] = preprocessing.letterbox_fill
    elif preprocessing.pad is not Pad.REFLECT:
        found["pad"] = preprocessing.pad
    return _as_json(found)


def stated_sums(spec: SumSpec | None) -> dict[str, Any]:
    """Return all that a tail depends on, as JSON has it; empty without one."""
    if spec is None:
        return {}
    return _as_json(asdict(spec) if spec.offset is None else asdict(spec) | {"columns": _columns(MapColumn, MAP_WIDTH)})


def read_sums(stated: Mapping[str, Any]) -> SumSpec | None:
    """Return the spec that `stated_sums` was made of. Raises KeyError, TypeError or ValueError for others."""
    if not stated:
        return None
    values = {name: value for name, value in stated.items() if name != "columns"}
    values["mirror_order"] = tuple(stated["mirror_order"])
    values |= {"score": Score(stated["score"]), "soundness": Soundness(stated["soundness"])}
    return SumSpec(**values)


def _columns(columns: Any, width: int) -> str:
    return " ".join(f"{column.name}={column}" for column in columns) + f" of {width}"


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found


def parameters(preprocessing: Preprocessing, spec: SumSpec | None) -> dict[str, str]:
    """Return the parameters of an ensemble's config."""
    return {VIEWS: json.dumps(stated_views(preprocessing)), SUMS: json.dumps(stated_sums(spec))}


def ensemble_inputs(preprocessing: Preprocessing, spec: SumSpec | None) -> Tensors:
    """Return the inputs of an ensemble whose views are summed by `spec`."""
    made = {
        "slab": _tensor("uint8", -1, preprocessing.depth, -1, -1),
        "rows": _tensor("float32", -1, WIDTH),
        "slab_size": _tensor("float32", 2),
        "x": _tensor("float32", -1),
        "y": _tensor("float32", -1),
    }
    if spec is None:
        return made
    if spec.offset is None:
        return made | {"weight": _tensor(spec.dtype, -1, -1), "owner": _tensor(spec.dtype, -1, -1)}
    maps = {
        "rows": _tensor("float32", -1, MAP_WIDTH),
        "owner": _tensor("float32", -1, -1),
        "map_size": _tensor("float32", 2),
        "x": _tensor("float32", -1),
        "y": _tensor("float32", -1),
    }
    if spec.mirror_order:
        maps |= {"column": _tensor("float32", -1), "line": _tensor("float32", -1)}
    return made | {MAP_NAMES.get(name, name): tensor for name, tensor in maps.items()}


def ensemble_outputs(spec: SumSpec) -> Tensors:
    """Return the outputs of an ensemble with a tail."""
    dtype = spec.dtype if spec.offset is None else "float32"
    found = {"total": _tensor(dtype, -1, -1), "weights": _tensor(dtype, -1, -1), "sound": _tensor("bool", -1)}
    return found | ({"peaks": _tensor("float32", -1, -1, PEAK_COLUMNS)} if spec.mirror_order else {})


def _tensor(dtype: DTypeLike, *shape: int) -> tuple[str, tuple[int, ...]]:
    return type_name(dtype), shape
