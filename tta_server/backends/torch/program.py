"""The program in a `.pt2` file, `models/model.json`, checked before torch sees it.

torch makes Python code of a program's names and evaluates its expressions, so each text in it is checked by what it is.
What a run does not need (guards, stack traces) is left out of what torch gets.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tta_server.backends.base import Signature
from tta_server.backends.torch.expressions import Shape, is_size, read_guard
from tta_server.backends.torch.operators import is_allowed
from tta_server.errors import ConfigError, printable, shown

DTYPES = {1: np.uint8, 6: np.float16, 7: np.float32}
"""Number of a type in the file -> what an image may be."""
TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,500}|")
PATH = re.compile(r"[A-Za-z0-9_.\-]{0,500}")
NUMBER = re.compile(r"NaN|-?Infinity")
PATHS = ("parameter_name", "buffer_name", "tensor_constant_name", "fqn")
OBJECTS = ("as_custom_obj", "custom_obj", "token")
GRAPHS = ("as_graph", "as_operator")
TRAINING = ("training", "train")


@dataclass(frozen=True, slots=True)
class Program:
    """What the file states: `guards` hold for each input's shape, `most` rows fit a batch (None: any number).

    `content` is the JSON for torch.
    """

    signature: Signature
    guards: Mapping[str, Callable[[Shape], bool]]
    most: int | None
    content: bytes


def read_program(text: bytes, device: str) -> Program:
    """Check the program; its tensors are to be on `device`. Raises ConfigError, without the file's name."""
    try:
        found = json.loads(text)
        module = found["graph_module"]
        graph = module["graph"]
        _check(found, "")
        _check_nodes(graph["nodes"])
        signature, most = _signature(found)
        guards = _guards(found.get("guards_code", ()))
        clean = _clean(found, device)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ConfigError(f"its program is not as torch.export.save writes it ({type(error).__name__})") from error
    return Program(signature, guards, most, json.dumps(clean).encode())


def _check(value: Any, key: str) -> None:
    """Check each text by the key that it stands for; texts that are left out later are not looked at."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in OBJECTS:
                _refuse("it holds custom objects, which may run code when they are loaded; make them tensors")
            if name in GRAPHS:
                _refuse("it has control flow or calls of other graphs; write the model without them")
            if name not in ("metadata", "guards_code", "in_spec", "out_spec", "torch_version"):
                _check_text(name, "fqn" if key == "config" else "name")
                _check(item, name)
    elif isinstance(value, list):
        for item in value:
            _check(item, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key == "target":
        if not is_allowed(text):
            _refuse(
                f"it has the operator {printable(text)}, which is not in the list of those that may run; write the "
                "model without it, or export it to ONNX"
            )
    elif key == "expr_str":
        if not is_size(text):
            _refuse(f"it has {shown(text)} as a size; allowed is arithmetic on sizes")
    elif key in ("as_string", "as_strings"):
        if len(text) > 1000:
            _refuse("it has a text of over 1000 characters; remove it from the model")
    elif key in ("as_float", "as_floats", "real", "imag") and NUMBER.fullmatch(text):
        return
    elif not (PATH if key in PATHS else NAME).fullmatch(text):
        _refuse(f"it has the name {shown(text)}; allowed are letters, digits and _")


def _check_nodes(nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        for given in node["inputs"]:
            if given["name"] in TRAINING and given["arg"].get("as_bool"):
                name = node["target"].split(".")[-2]
                _refuse(f"it was exported in training mode ({name}); call model.eval() before torch.export.export")


def _signature(found: Mapping[str, Any]) -> tuple[Signature, int | None]:
    """The signature, and the most rows of a batch."""
    module = found["graph_module"]
    specs = module["signature"]
    images = [spec["user_input"]["arg"] for spec in specs["input_specs"] if "user_input" in spec]
    if len(images) != 1 or "as_tensor" not in images[0]:
        _refuse(f"it has {len(images)} inputs; it must have one, an image")
    name = images[0]["as_tensor"]["name"]
    call = module["module_call_graph"][0]["signature"]
    inputs = _tree(call["in_spec"])
    if len(inputs["children_spec"][0]["children_spec"]) != 1:
        _refuse("its image is a keyword argument; export it as a positional one: torch.export.export(model, (image,))")
    values = module["graph"]["tensor_values"]
    meta = values[name]
    shape = _shape(meta)
    if meta["dtype"] not in DTYPES or len(shape) != 4:
        allowed = ", ".join(np.dtype(dtype).name for dtype in DTYPES.values())
        _refuse(f"input {name} is {len(shape)}-D of type {meta['dtype']}; it must be 4-D, of {allowed}")
    outputs = _outputs(specs["output_specs"], _tree(call["out_spec"]))
    signature = Signature(
        name, shape, np.dtype(DTYPES[meta["dtype"]]), {key: _shape(values[tensor]) for key, tensor in outputs.items()}
    )
    return signature, _most_rows(meta["sizes"][0], found["range_constraints"])


def _outputs(specs: list[dict[str, Any]], tree: dict[str, Any]) -> dict[str, str]:
    """Name of an output -> name of its tensor in the graph."""
    if any("user_output" not in spec for spec in specs):
        _refuse("it changes its weights or its input while it runs; call model.eval() before torch.export.export")
    tensors = [spec["user_output"]["arg"].get("as_tensor", {}).get("name") for spec in specs]
    children = tree["children_spec"]
    if any(child["type"] is not None for child in children) or None in tensors:
        _refuse("its outputs are nested or no tensors; it should return a tensor, or a tuple or dict of tensors")
    if tree["type"] is None:
        names = ["output"]
    elif "dict" in tree["type"].lower():
        names = [str(name) for name in json.loads(tree["context"])]
    else:
        names = [f"output_{i}" for i in range(len(children))]
    if not names or len(names) != len(tensors):
        _refuse("it returns nothing; it should return a tensor, or a tuple or dict of tensors")
    return dict(zip(names, tensors, strict=True))


def _tree(text: str) -> dict[str, Any]:
    """How arguments or outputs are nested; torch imports what a type in it names, so few are allowed."""
    _, tree = json.loads(text)
    nodes = [tree]
    for node in nodes:
        if node["type"] not in TREES:
            _refuse(
                f"it takes or returns {shown(node['type'])}; allowed are a tensor, or a tuple, list or dict of tensors"
            )
        nodes.extend(node["children_spec"])
    return dict(tree)


def _shape(meta: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(size.get("as_int") for size in meta["sizes"])


def _most_rows(size: Mapping[str, Any], ranges: Mapping[str, Any]) -> int | None:
    if "as_int" in size:
        return int(size["as_int"])
    found = re.fullmatch(r"(?:Symbol\()?'?(\w+)'?(?:, \w+=True)*\)?", size["as_expr"]["expr_str"])
    limits = ranges.get(found[1]) if found else None
    if limits is None:
        _refuse(
            "its batch axis depends on another size; export it with dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    if (limits["min_val"] or 0) > 2:  # torch writes 2 for any
        _refuse(
            f"its batches have at least {limits['min_val']} images; export it with torch.export.Dim('batch', min=1)"
        )
    most = limits["max_val"]
    return most if isinstance(most, int) and most < 2**31 else None


def _guards(texts: list[str]) -> dict[str, Callable[[Shape], bool]]:
    guards = {}
    for text in texts:
        if (guard := read_guard(text)) is None:
            _refuse(f"it relies on {shown(text)}; allowed are conditions on the sizes of its input")
        guards[text] = guard
    return guards


def _clean(found: dict[str, Any], device: str) -> Any:
    """The program without what a run does not need, on `device`."""
    module = found["graph_module"]
    module.update(metadata={}, treespec_namedtuple_fields={}, module_call_graph=module["module_call_graph"][:1])
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
    return on_device({**found, "guards_code": []}, device)


def on_device(value: Any, device: str) -> Any:
    """A copy in which each device is this one."""
    kind, _, index = device.partition(":")
    if isinstance(value, dict):
        return {
            key: {"type": kind, "index": int(index) if index else None}
            if key in ("device", "as_device") and isinstance(item, dict)
            else on_device(item, device)
            for key, item in value.items()
        }
    return [on_device(item, device) for item in value] if isinstance(value, list) else value


def _refuse(sentence: str) -> NoReturn:
    raise ConfigError(sentence)
