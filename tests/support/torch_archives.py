"""`.pt2` archives made by hand, without torch: a good one, and crafted ones that run code where torch loads them."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BATCH = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": {"as_int": 2}}}
LEAF = {"type": None, "context": None, "children_spec": []}
INPUTS = "data/sample_inputs/model.pt"
PROGRAM = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
WEIGHT = "data/weights/weight_0"
Records = dict[str, bytes]
ARGUMENTS = (  # ((an image,), {})
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000"
    b"X\x03\0\0\0cpuM\x80\x01tQK\0(K\x02K\x03K\x08K\x08t(K\xc0K\x40K\x08K\x01t\x89ccollections\nOrderedDict\n)RtR\x85}\x86."
)


def tensor(*sizes: Any, requires_grad: bool = False) -> dict[str, Any]:
    axes = [size if isinstance(size, dict) else {"as_int": size} for size in sizes]
    strides, step = [], 1
    for axis in reversed(axes):
        strides.insert(0, {"as_int": step})
        step *= axis.get("as_int", 1)
    return {
        "dtype": 7,
        "sizes": axes,
        "requires_grad": requires_grad,
        "device": {"type": "cpu", "index": None},
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def node(target: str, name: str, *inputs: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "target": target,
        "inputs": [{"name": given, "arg": arg, "kind": 1} for given, arg in inputs],
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {"stack_trace": 'File "net.py", line 1, in forward\n    return x.mean((2, 3)) * self.w'},
        "is_hop_single_tensor_return": None,
        "name": name,
    }


def program() -> dict[str, Any]:
    """The means of an image's channels times a weight of three: (N, 3, 8, 8) -> {"scores": (N, 3)}."""
    tree = {"type": "builtins.tuple", "context": "null"}
    keywords = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    arguments = {**tree, "children_spec": [{**tree, "children_spec": [LEAF]}, keywords]}
    answers = {"type": "builtins.dict", "context": '["scores"]', "children_spec": [LEAF]}
    x, w, mean, mul = ({"as_tensor": {"name": name}} for name in ("x", "p_w", "mean", "mul"))
    graph = {
        "inputs": [w, x],
        "outputs": [mul],
        "nodes": [
            node("torch.ops.aten.mean.dim", "mean", ("self", x), ("dim", {"as_ints": [2, 3]})),
            node("torch.ops.aten.mul.Tensor", "mul", ("self", mean), ("other", w)),
        ],
        "tensor_values": {
            "p_w": tensor(3, requires_grad=True),
            "x": tensor(BATCH, 3, 8, 8),
            "mean": tensor(BATCH, 3),
            "mul": tensor(BATCH, 3),
        },
        "sym_int_values": {},
        "sym_bool_values": {},
        "is_single_tensor_return": False,
        "custom_obj_values": {},
        "sym_float_values": {},
    }
    return {
        "graph_module": {
            "graph": graph,
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                    {"user_input": {"arg": x}},
                ],
                "output_specs": [{"user_output": {"arg": mul}}],
            },
            "module_call_graph": [
                {
                    "fqn": "",
                    "signature": {
                        "inputs": [],
                        "outputs": [],
                        "in_spec": json.dumps([1, arguments]),
                        "out_spec": json.dumps([1, answers]),
                        "forward_arg_names": ["x"],
                    },
                }
            ],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {"s77": {"min_val": 1, "max_val": 64}},
        "schema_version": {"major": 8, "minor": 8},
        "verifiers": ["TRAINING"],
        "torch_version": "2.9.0",
        "guards_code": [],
    }


def weights() -> dict[str, Any]:
    meta = tensor(3, requires_grad=True)
    return {"config": {"w": {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}}}


def records() -> Records:
    """What torch.export.save writes."""
    return {
        PROGRAM: json.dumps(program()).encode(),
        WEIGHTS: json.dumps(weights()).encode(),
        WEIGHT: struct.pack("<3f", 1, 2, 3),
        CONSTANTS: b'{"config": {}}',
        INPUTS: torch_file(ARGUMENTS),
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"6\n",
        "byteorder": b"little",
    }


def write(path: Path, content: Mapping[str, bytes], root: str = "model", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(f"{root}/{name}" if root else name, data)
    return path


def torch_file(data: bytes) -> bytes:
    """What torch.save writes for a pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        storage = bytes(4 * 2 * 3 * 8 * 8)
        for name, content in {"data.pkl": data, "byteorder": b"little", "data/0": storage, "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)
    return made.getvalue()


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def edited(change: Callable[[dict[str, Any]], None]) -> Records:
    """A good archive with a changed program."""
    made = program()
    change(made)
    return {**records(), PROGRAM: json.dumps(made).encode()}


def crafted(marker: Path) -> dict[str, Records]:
    """Kind -> an archive that torch makes code of: it writes the marker at load or in a run, or imports a module."""
    payload = pickle.dumps(Payload(marker), 2)
    code = f"open({str(marker)!r}, 'w').close()"
    call = f"exec(bytes({list(code.encode())}))"

    def calls_the_shell(made: dict[str, Any]) -> None:
        touch = ("command", {"as_string": f"touch {marker}"})
        made["graph_module"]["graph"]["nodes"].append(node("torch.os.system", "shell", touch))
        made["graph_module"]["graph"]["tensor_values"]["shell"] = tensor(1)

    def has_code_as_size(made: dict[str, Any]) -> None:
        size = {"as_expr": {"expr_str": f'exec("{code}") or Integer(2)', "hint": {"as_int": 2}}}
        made["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0] = size

    def has_code_as_guard(made: dict[str, Any]) -> None:
        made["guards_code"] = [f"{call} is None and L['x'].size()[2] == 8"]

    def has_code_as_name(made: dict[str, Any]) -> None:
        graph, name = made["graph_module"]["graph"], f"a = 1; {code}; a"
        graph["nodes"].append(node("torch.ops.aten.relu.default", name, ("self", {"as_tensor": {"name": "x"}})))
        graph["tensor_values"][name] = tensor(BATCH, 3, 8, 8)

    def imports_a_module(made: dict[str, Any]) -> None:
        context = {"default_factory_module": "this", "default_factory_name": "s", "dict_context": ["scores"]}
        tree = {"type": "collections.defaultdict", "context": context, "children_spec": [LEAF]}
        made["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])

    pickled = weights()
    pickled["config"]["w"]["use_pickle"] = True
    opaque = {"o": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    return {
        "sample inputs": {**records(), INPUTS: torch_file(payload)},
        "opaque object": {
            **records(),
            CONSTANTS: json.dumps({"config": opaque}).encode(),
            "data/constants/opaque_obj_0": payload,
        },
        "torch.os.system": edited(calls_the_shell),
        "use_pickle": {**records(), WEIGHTS: json.dumps(pickled).encode(), WEIGHT: torch_file(payload)},
        "code as a size": edited(has_code_as_size),
        "code as a guard": edited(has_code_as_guard),
        "code as a name": edited(has_code_as_name),
        "a module to import": edited(imports_a_module),
    }
