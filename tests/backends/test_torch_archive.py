"""A `.pt2` file is refused, with a sentence that says what to do, before any code in it runs. Without torch."""

import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tests.support.torch_archives import (
    ARGUMENTS,
    BATCH,
    CONSTANTS,
    INPUTS,
    LEAF,
    PROGRAM,
    WEIGHT,
    WEIGHTS,
    Payload,
    Records,
    crafted,
    edited,
    program,
    records,
    tensor,
    torch_file,
    weights,
    write,
)
from tta_server.backends.torch import archive
from tta_server.backends.torch.archive import Archive, read_archive
from tta_server.backends.torch.expressions import is_size, read_guard
from tta_server.backends.torch.operators import is_allowed
from tta_server.backends.torch.pickles import needs_code
from tta_server.errors import ConfigError

EXPORT = "torch.export.save(torch.export.export(model.eval(), (image,)"


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_archive(path, "cpu")
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    return sentence.removeprefix(f"{path}: ")


def read(path: Path, content: Records) -> Archive:
    return read_archive(write(path / "model.pt2", content), "cpu")


def test_a_program_states_its_input_outputs_and_batches(tmp_path: Path) -> None:
    found = read(tmp_path, records()).program
    assert found.signature.input == "x"
    assert found.signature.shape == (None, 3, 8, 8)
    assert found.signature.dtype == np.float32
    assert found.signature.outputs == {"scores": (None, 3)}
    assert (found.most, found.guards) == (64, {})


def test_torch_gets_only_what_was_checked(tmp_path: Path) -> None:
    def guarded(made: dict[str, Any]) -> None:
        made["guards_code"] = ["L['x'].size()[2] == 8"]

    extra = {"extra/notes.txt": b"hello", ".data/serialization_id": b"1"}
    with zipfile.ZipFile(read(tmp_path, {**edited(guarded), **extra}).content) as made:
        names = {name.removeprefix("model/") for name in made.namelist()}
        assert made.read(f"model/{INPUTS}") == b""
        program = json.loads(made.read(f"model/{PROGRAM}"))
        assert made.read(f"model/{WEIGHT}") == records()[WEIGHT]
    assert names == records().keys()
    assert program["guards_code"] == []
    assert all(node["metadata"] == {} for node in program["graph_module"]["graph"]["nodes"])


def test_tensors_are_put_on_the_device_that_runs_the_model(tmp_path: Path) -> None:
    def on_another(made: dict[str, Any]) -> None:
        made["graph_module"]["graph"]["tensor_values"]["x"]["device"] = {"type": "cuda", "index": 3}

    path = write(tmp_path / "model.pt2", edited(on_another))
    with zipfile.ZipFile(read_archive(path, "cuda:1").content) as made:
        texts = [made.read(f"model/{name}").decode() for name in (PROGRAM, WEIGHTS)]
    for text in texts:
        assert '"device": {"type": "cuda", "index": 1}' in text
        assert '"cpu"' not in text
        assert '"index": 3' not in text


KINDS = {
    "sample inputs": "its sample inputs are pickled objects",
    "opaque object": "its constant 'o' is a custom object",
    "torch.os.system": "it has the operator torch.os.system, which is not in the list",
    "use_pickle": "its weight 'w' is pickled",
    "code as a size": "as a size; allowed is arithmetic on sizes",
    "code as a guard": "allowed are conditions on the sizes of its input",
    "code as a name": "allowed are letters, digits and _",
    "a module to import": "it takes or returns 'collections.defaultdict'",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_crafted_file_is_refused_and_runs_no_code(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    sentence = refusal(write(tmp_path / "model.pt2", crafted(marker)[kind]))
    assert KINDS[kind] in sentence
    assert not marker.exists()


def test_every_kind_of_crafted_file_is_tried(tmp_path: Path) -> None:
    assert crafted(tmp_path).keys() == KINDS.keys()


def test_other_files_of_torch_are_refused_with_the_command_that_converts(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = pickle.dumps(Payload(marker), 2)
    script = {"data.pkl": payload, "code/__torch__/net.py": b"", "constants.pkl": payload, "version": b"3\n"}
    library = {"data/aotinductor/model/net.so": b"\x7fELF", "archive_format": b"pt2"}
    old = {"serialized_exported_program.json": b"{}", "version": b"5.1"}
    (tmp_path / "old.pt").write_bytes(payload)
    (tmp_path / "state.pt").write_bytes(torch_file(payload))
    found = {
        "TorchScript": refusal(write(tmp_path / "script.pt", script)),
        "pickled Python objects": refusal(tmp_path / "old.pt"),
        "holds pickled Python objects (torch.save)": refusal(tmp_path / "state.pt"),
        "a package of AOTInductor": refusal(write(tmp_path / "compiled.pt2", library)),
        "by torch 2.7 or older": refusal(write(tmp_path / "2.7.pt2", old, root="")),
        "by torch 2.8 or older": refusal(write(tmp_path / "2.8.pt2", {**records(), "data/weights/model.pt": payload})),
    }
    for what, sentence in found.items():
        assert what in sentence
        assert EXPORT in sentence
    assert "TS2EPConverter(torch.jit.load(" in found["TorchScript"]
    assert not marker.exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"PK", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)):
        (tmp_path / "model.pt2").write_bytes(content)
        assert "archive of torch.export.save" in refusal(tmp_path / "model.pt2")
    assert "can't be read" in refusal(tmp_path / "missing.pt2")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", records())
    content = path.read_bytes()
    weight = content.index(records()[WEIGHT])
    path.write_bytes(content[:weight] + b"\xff" + content[weight + 1 :])
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"../../x": b""}, "compressed or outside of the archive"),
        ({"a b/\n": b""}, "it has a record"),
        ({"x" * 600: b""}, "it has a record"),
        ({"models/other.json": b"{}"}, "it has the programs"),
        ({"archive_version": b"1"}, "its version of the format is not 0"),
        ({"byteorder": b"big"}, "another byte order"),
        ({PROGRAM: b"{"}, "its program is not as torch.export.save writes it"),
        ({PROGRAM: b"[" * 100_000}, "its program is not as torch.export.save writes it"),
        ({PROGRAM: b"{}"}, "its program is not as torch.export.save writes it"),
        ({WEIGHTS: b"[]"}, "its list of weights is not as torch.export.save writes it"),
        ({WEIGHT: b""}, "its weight 'w' has no content"),
    ],
)
def test_a_record_is_checked_before_it_is_used(tmp_path: Path, content: Records, sentence: str) -> None:
    assert sentence in refusal(write(tmp_path / "model.pt2", {**records(), **content}))


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    content = records()
    del content[WEIGHT]
    assert "it lacks the record 'data/weights/weight_0'" in refusal(write(tmp_path / "model.pt2", content))


def test_a_compressed_archive_is_refused_however_small(tmp_path: Path) -> None:
    bomb = {**records(), "extra/zeros": bytes(10_000_000)}
    assert "is compressed" in refusal(write(tmp_path / "model.pt2", bomb, compression=zipfile.ZIP_DEFLATED))


def test_a_record_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", records())
    with zipfile.ZipFile(path, "a") as appended, pytest.warns(UserWarning, match="Duplicate"):
        appended.writestr(f"model/{PROGRAM}", b"{}")
    assert "or one twice" in refusal(path)


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", records())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the last one's in the directory
    content[entry + 20 : entry + 28] = struct.pack("<II", 10**6, 10**6)
    path.write_bytes(content)
    assert "its records overlap" in refusal(path)


def test_an_archive_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.pt2", records())
    with monkeypatch.context() as patched:
        patched.setattr(archive, "LARGEST_TEXT", 100)
        assert "bytes; allowed are 100" in refusal(path)
    monkeypatch.setattr(archive, "MOST_RECORDS", 3)
    assert "it has 9 records" in refusal(path)


@pytest.mark.parametrize(
    ("name", "record"), [("w", "model_weights_config.json"), ('w"]; x', "weight_0"), ("w", "../weights/weight_0")]
)
def test_a_weight_has_a_name_and_a_record_of_its_own(tmp_path: Path, name: str, record: str) -> None:
    listed = {"config": {name: {**weights()["config"]["w"], "path_name": record}}}
    content = {**records(), WEIGHTS: json.dumps(listed).encode()}
    sentence = refusal(write(tmp_path / "model.pt2", content))
    assert "it has a weight" in sentence or "lacks the record" in sentence


def test_names_of_weights_stay_in_their_folder(tmp_path: Path) -> None:
    listed = weights()
    listed["config"]["w"]["path_name"] = "../../models/model.json"
    assert "lacks the record" in refusal(
        write(tmp_path / "model.pt2", {**records(), WEIGHTS: json.dumps(listed).encode()})
    )


def graph(made: dict[str, Any]) -> dict[str, Any]:
    return made["graph_module"]["graph"]


def train(made: dict[str, Any]) -> None:
    graph(made)["nodes"][0]["inputs"].append({"name": "train", "arg": {"as_bool": True}, "kind": 1})


def mutate(made: dict[str, Any]) -> None:
    mutation = {"buffer_mutation": {"arg": {"name": "mul"}, "buffer_name": "w"}}
    made["graph_module"]["signature"]["output_specs"].append(mutation)


def two_images(made: dict[str, Any]) -> None:
    made["graph_module"]["signature"]["input_specs"].append({"user_input": {"arg": {"as_tensor": {"name": "y"}}}})


def of_integers(made: dict[str, Any]) -> None:
    graph(made)["tensor_values"]["x"]["dtype"] = 5


def by_keyword(made: dict[str, Any]) -> None:
    none, one = (
        {"type": kind, "context": "[]", "children_spec": leaves}
        for kind, leaves in (("builtins.tuple", []), ("builtins.dict", [LEAF]))
    )
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [none, one]}
    made["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])


def nested(made: dict[str, Any]) -> None:
    inner = {"type": "builtins.list", "context": "null", "children_spec": [LEAF]}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
    made["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])


def control_flow(made: dict[str, Any]) -> None:
    graph(made)["nodes"][0]["inputs"].append({"name": "", "arg": {"as_graph": {"name": "g", "graph": {}}}, "kind": 1})


def higher_order(made: dict[str, Any]) -> None:
    graph(made)["nodes"][0]["target"] = "torch.ops.higher_order.cond"


def custom_object(made: dict[str, Any]) -> None:
    spec = {"custom_obj": {"arg": {"name": "o", "class_fqn": "a.B"}, "custom_obj_name": "o"}}
    made["graph_module"]["signature"]["input_specs"].insert(0, spec)


def odd_name(made: dict[str, Any]) -> None:
    graph(made)["tensor_values"]["x; y"] = tensor(1)


def long_text(made: dict[str, Any]) -> None:
    graph(made)["nodes"][0]["inputs"].append({"name": "mode", "arg": {"as_string": "a" * 1001}, "kind": 1})


def at_least_eight(made: dict[str, Any]) -> None:
    made["range_constraints"]["s77"]["min_val"] = 8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (train, "it was exported in training mode (mean); call model.eval()"),
        (mutate, "it changes its weights or its input while it runs; call model.eval()"),
        (two_images, "it has 2 inputs; it must have one, an image"),
        (of_integers, "input x is 4-D of type 5; it must be 4-D, of uint8, float16, float32"),
        (by_keyword, "its image is a keyword argument; export it as a positional one"),
        (nested, "its outputs are nested or no tensors"),
        (control_flow, "it has control flow"),
        (higher_order, "it has the operator torch.ops.higher_order.cond"),
        (custom_object, "it holds custom objects"),
        (odd_name, "it has the name 'x; y'"),
        (long_text, "it has a text of over 1000 characters"),
        (at_least_eight, "its batches have at least 8 images"),
    ],
)
def test_a_program_that_cannot_serve_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    assert sentence in refusal(write(tmp_path / "model.pt2", edited(change)))


def test_a_tuple_of_outputs_is_numbered_and_one_tensor_is_output(tmp_path: Path) -> None:
    def returning(tree: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        def change(made: dict[str, Any]) -> None:
            made["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])

        return change

    one = {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF]}
    assert list(read(tmp_path, edited(returning(one))).program.signature.outputs) == ["output_0"]
    assert list(read(tmp_path, edited(returning(LEAF))).program.signature.outputs) == ["output"]


def test_a_fixed_batch_is_stated(tmp_path: Path) -> None:
    def fixed(made: dict[str, Any]) -> None:
        graph(made)["tensor_values"]["x"] = tensor(1, 3, 8, 8)

    found = read(tmp_path, edited(fixed)).program
    assert (found.signature.shape[0], found.most) == (1, 1)


def test_a_guard_becomes_a_condition_on_the_shape(tmp_path: Path) -> None:
    def guarded(made: dict[str, Any]) -> None:
        made["guards_code"] = ["L['x'].size()[2] == (4*(L['x'].size()[2] // 4))"]

    (holds,) = read(tmp_path, edited(guarded)).program.guards.values()
    assert [side for side in range(1, 13) if holds((1, 3, side, 5))] == [4, 8, 12]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1 + (((-1) + L['x'].size()[3]) // 2)) != 1", True),
        ("max(1, L['args'][0].size()[2] // 2) == 4 and L['x'].size()[0] >= 1", True),
        ("(torch.sym_max(1, L['image'].size()[3] // 2)*torch.sym_min(4, L['image'].size()[2])) == 16", True),
        ("math.ceil(L['x'].size()[3] / 3) == 3 and torch.sym_int(2.5) == 2", True),
        ("L['x'].size()[3] % 3 == 0", False),
    ],
)
def test_guards_as_torch_writes_them(text: str, value: bool) -> None:
    guard = read_guard(text)
    assert guard is not None
    assert guard((1, 3, 8, 8)) is value


CODE = [
    "__import__('os').system('true')",
    "L['x'].__class__",
    "().__class__.__base__",
    "exec('1')",
    "[x for x in ()]",
    "lambda: 1",
    "9**9",
    "Symbol(Symbol('eval'))",
    "Symbol('__import__(1)')",
    "Symbol('s0').func",
    "Add('x', 1)",
    "S('x')",
    "N",
    "Pow(Integer(9), Integer(999))",
    "s0\n__import__('os')",
    "s0 # )",
    "ｅval",
    "(" * 5000,
    "f'{s0}'",
    "(s0 := 1)",
    "torch.load('x')",
    "math.factorial(99999)",
    "torch.sym_max.__globals__",
    "1" + "+1" * 6000,
]


@pytest.mark.parametrize("text", CODE)
def test_code_is_neither_a_size_nor_a_guard(text: str) -> None:
    assert not is_size(text)
    assert read_guard(text) is None


@given(st.text("s0123456789+-*/%()[]<>=!,.' ABCDEFGHIJKLMNOPQRSTUVWXYZ_abdefghilmnoruyz", max_size=30))
def test_no_text_that_passes_calls_or_reads_anything_but_arithmetic(text: str) -> None:
    if is_size(text):
        assert "__" not in text
        assert ".f" not in text
    guard = read_guard(text)
    if guard is not None:
        assert "_" not in text.replace("'", "").split("[")[0]


def test_sizes_as_torch_writes_them() -> None:
    assert is_size(BATCH["as_expr"]["expr_str"])
    assert is_size(
        "Mul(Integer(192), Add(FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(16)), Integer(1)))"
    )
    assert is_size("Pow(Symbol('s0', positive=True, integer=True), Integer(2))")
    assert is_size("4*s77 + 1")


def test_operators_that_touch_files_memory_or_python_are_not_allowed() -> None:
    for target in (
        *("torch.ops.aten.save.default", "torch.ops.aten.from_file.default", "torch.ops.aten.empty.memory_format"),
        *("torch.ops.aten.set_.source_Tensor", "torch.ops.aten.resize_.default", "torch.ops.aten.__class__.x"),
        *("_operator.call", "_operator.attrgetter", "_operator.methodcaller", "_operatorx.add", "torch.load"),
        *("torch.hub.load", "math", "#ns:op", "torch.ops.aten.relu", "torch.ops.aten.relu.default.op", "os.system"),
    ):
        assert not is_allowed(target), target
    for target in ("torch.ops.aten.relu_.default", "torch.ops.aten.add.Tensor", "_operator.mul", "torch.sym_max"):
        assert is_allowed(target), target


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_imports_needs_code_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    assert needs_code(torch_file(pickle.dumps(Payload(tmp_path), protocol)))
    assert not needs_code(torch_file(pickle.dumps(((), {"a": [1, "b"]}), protocol)))


def test_a_pickle_that_cannot_be_read_plainly_needs_code() -> None:
    def of(names: list[str], compression: int = zipfile.ZIP_STORED) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", compression) as written:
            for name in names:
                written.writestr(name, ARGUMENTS)
        return made.getvalue()

    assert not needs_code(of(["a/data.pkl"]))
    assert needs_code(of([]))
    assert needs_code(of(["a/data.pkl", "b/data.pkl"]))
    assert needs_code(of(["a/data.pkl"], zipfile.ZIP_DEFLATED))
    assert needs_code(ARGUMENTS)
    assert needs_code(torch_file(b"\x80\x02"))


def test_constants_are_copied_as_weights_are(tmp_path: Path) -> None:
    meta = {"path_name": "tensor_0", "is_param": False, "use_pickle": False, "tensor_meta": tensor(1)}
    content = {
        **records(),
        CONSTANTS: json.dumps({"config": {"c": meta}}).encode(),
        "data/constants/tensor_0": b"\0\0\0\0",
    }
    with zipfile.ZipFile(read(tmp_path, content).content) as made:
        assert made.read("model/data/constants/tensor_0") == b"\0\0\0\0"


VALUES = (
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.text(max_size=5) | st.just([]) | st.just({}) | st.floats()
)


@settings(max_examples=times(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything_may_be_wrong_in_a_program_or_a_list_of_weights(tmp_path: Path, data: st.DataObject) -> None:
    name, made = data.draw(st.sampled_from([(PROGRAM, program()), (WEIGHTS, weights())]))
    place: Any = made
    for _ in range(data.draw(st.integers(0, 9))):
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(VALUES)
    path = write(tmp_path / "model.pt2", {**records(), name: json.dumps(made).encode()})
    with contextlib.suppress(ConfigError):
        read_archive(path, "cpu")


@settings(max_examples=times(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_of_a_file_may_be_wrong(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(write(tmp_path / "model.pt2", records()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (tmp_path / "model.pt2").write_bytes(content[:end])
    with contextlib.suppress(ConfigError):
        read_archive(tmp_path / "model.pt2", "cpu")
