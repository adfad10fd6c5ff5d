"""A freed file gives for a batch what the original gives for each image; what can't be shown to do so is refused."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.support import batch_nets as nets
from tests.support.batch_nets import ints, net, node
from tta_server.errors import ConfigError
from tta_server.onboarding.batch import rules
from tta_server.onboarding.batch.along import elementwise
from tta_server.onboarding.batch.free import free_batch
from tta_server.onboarding.model_file import read_model_file

NETS = {
    "reshape": nets.reshaped(1, -1),
    "reshape to numbers": nets.reshaped(1, 16),
    "reshape that is free": nets.reshaped(-1, 16),
    "reshape that copies": nets.reshaped(0, -1),
    "flatten": nets.flattened(),
    "token": nets.with_token(),
    "tokens first": nets.tokens_first(),
    "windows": nets.windows(),
    "resize": nets.resized(),
    "own shape": nets.of_its_own_shape(),
    "free sides": nets.free_sides(),
    "einsum": nets.letters(),
    "grid": nets.sampled(),
}


def freed(tmp_path: Path, model: onnx.ModelProto) -> bytes:
    onnx.save(model, tmp_path / "model.onnx")
    return free_batch(read_model_file(tmp_path / "model.onnx"))


def refused(tmp_path: Path, model: onnx.ModelProto) -> str:
    with pytest.raises(ConfigError, match=r"model\.onnx: the batch axis can't be freed: ") as found:
        freed(tmp_path, model)
    return str(found.value).partition("freed: ")[2]


@pytest.mark.parametrize("name", NETS)
def test_a_batch_gives_what_each_image_gives(tmp_path: Path, name: str) -> None:
    content = freed(tmp_path, NETS[name])
    session, original = ort.InferenceSession(content), ort.InferenceSession(NETS[name].SerializeToString())
    shape = [8 if isinstance(size, str) else size for size in original.get_inputs()[0].shape]
    images = np.random.default_rng(1).normal(size=(5, *shape[1:])).astype(np.float32)
    alone = np.concatenate([original.run(None, {"image": image[None]})[0] for image in images])
    for count in (1, 2, 5):
        (found,) = session.run(None, {"image": images[:count]})
        np.testing.assert_allclose(found, alone[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_input_and_outputs_state_the_free_axis(tmp_path: Path, name: str) -> None:
    (tmp_path / "freed").mkdir()
    (tmp_path / "freed" / "model.onnx").write_bytes(freed(tmp_path, NETS[name]))
    file = read_model_file(tmp_path / "freed" / "model.onnx")
    assert [each.shape[0] for each in (*file.inputs, *file.outputs)] == ["batch", "batch"]
    assert not file.has_fixed_batch


def test_the_weights_stay_as_they_are(tmp_path: Path) -> None:
    model = NETS["token"]
    made = onnx.load_model_from_string(freed(tmp_path, model))
    kept = {each.name: each for each in made.graph.initializer}
    for each in model.graph.initializer:
        assert kept[each.name] == each


def test_weights_outside_the_file_stay_there(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(NETS["reshape"])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=60)
    content = free_batch(read_model_file(path))
    assert b"weights.bin" in content
    (tmp_path / "freed.onnx").write_bytes(content)
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    found, expected = (
        ort.InferenceSession(each).run(None, {"image": image})[0]
        for each, image in ((tmp_path / "freed.onnx", images), (path, images[1:]))
    )
    np.testing.assert_allclose(found[1:], expected, rtol=1e-4)


def test_an_input_without_a_batch_axis_has_none_to_free(tmp_path: Path) -> None:
    model = net([node("Relu", ["image"], ["out"])], {}, (3, 8, 8), shape=(3, 8, 8))
    assert refused(tmp_path, model) == "input image has none; export it with shape [N, 3, 8, 8]"


def one(kind: str, *inputs: str, out: Any = (1, 3, 8, 8), opset: int = 17, **rest: Any) -> onnx.ModelProto:
    """A net of one named node."""
    weights = {key: value for key, value in rest.items() if isinstance(value, np.ndarray | tuple)}
    attributes = {key: value for key, value in rest.items() if key not in weights}
    return net([node(kind, ["image", *inputs], ["out"], name="it", **attributes)], weights, out, opset=opset)


def _labelled(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def _quantised() -> onnx.ModelProto:
    nodes = [
        node("DynamicQuantizeLinear", ["image"], ["q", "scale", "zero"], name="it"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["out"]),
    ]
    return net(nodes, {}, (1, 3, 8, 8))


def _suppressed() -> onnx.ModelProto:
    nodes = [
        node("Reshape", ["image", "shape"], ["boxes"]),
        node("ReduceMax", ["boxes"], ["most"], axes=[2], keepdims=1),
        node("Transpose", ["most"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "ten"], ["out"], name="it"),
    ]
    return _labelled(net(nodes, {"shape": ints(1, -1, 4), "ten": ints(10)}, ("n", 3)))


def _branch() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([node("Identity", ["image"], ["y"])], "b", [], [value])
    nodes = [node("If", ["yes"], ["out"], name="it", then_branch=branch, else_branch=branch)]
    return net(nodes, {"yes": np.array(True)}, (1, 3, 8, 8))


REFUSED = {
    "mean over images": (one("ReduceMean", axes=[0, 1]), "it (ReduceMean) sums up over the images' axis"),
    "mean of all": (one("ReduceMean", out=(1, 1, 1, 1)), "it (ReduceMean) sums up over the images' axis"),
    "softmax of images": (one("Softmax", axis=0), "it (Softmax) works along the images' axis"),
    "softmax of all": (one("Softmax", axis=0, opset=11), "it (Softmax) works along the images' axis"),
    "best image": (_labelled(one("ArgMax", axis=0)), "it (ArgMax) sums up over the images' axis"),
    "appended": (one("Concat", "image", axis=0, out=(2, 3, 8, 8)), "it (Concat) appends along the images' axis"),
    "first image": (one("Gather", "i", i=np.array(0), out=(3, 8, 8)), "it (Gather) takes single images"),
    "part of images": (one("Slice", "s", "e", s=ints(0), e=ints(1)), "it (Slice) takes a part of the images' axis"),
    "padded": (
        one("Pad", "p", p=ints(0, 0, 0, 0, 1, 0, 0, 0), out=(2, 3, 8, 8)),
        "it (Pad) pads the images' axis",
    ),
    "squeezed": (one("Squeeze", "a", a=ints(0), out=(3, 8, 8)), "it (Squeeze) removes the images' axis"),
    "rows of a constant": (one("Add", "c", c=(2, 3, 8, 8), out=(2, 3, 8, 8)), "it (Add) has c, of 2 entries along"),
    "expanded": (one("Expand", "s", s=ints(4, 3, 8, 8), out=(4, 3, 8, 8)), "it (Expand) states the number of entries"),
    "repeated": (one("Tile", "r", r=ints(2, 1, 1, 1), out=(2, 3, 8, 8)), "it (Tile) repeats the images' axis"),
    "no image": (
        one("Transpose", perm=[1, 0, 2, 3], out=(3, 1, 8, 8)),
        "output out is [3, 1, 8, 8] for one image: its first axis is not that of images",
    ),
    "quantised by range": (_quantised(), "it (DynamicQuantizeLinear) is of a kind that may mix images"),
    "boxes": (_suppressed(), "it (NonMaxSuppression) is of a kind that may mix images"),
    "branch": (_branch(), "it (If) holds a graph of its own"),
    "other rows": (
        net([node("Reshape", ["image", "s"], ["out"], name="it")], {"s": ints(3, 8, 8)}, (3, 8, 8)),
        "output out is [3, 8, 8] for one image: its first axis is not that of images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mix_images_is_refused_by_name(tmp_path: Path, name: str) -> None:
    model, sentence = REFUSED[name]
    assert sentence in refused(tmp_path, model)


@pytest.mark.parametrize("kind", ["Softmax", "ReduceMean"])
def test_a_rule_that_is_wrong_shows_in_the_runs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: a node along the images' axis is taken for one that keeps them apart."""
    monkeypatch.setitem(rules.RULES, kind, elementwise)  # type: ignore[arg-type]
    attributes = {"axis": 0} if kind == "Softmax" else {"axes": [0], "keepdims": 1}
    found = refused(tmp_path, one(kind, **attributes))
    assert "of 3 images together differs" in found or "shape inference gives output out 1 rows" in found


def test_a_shape_that_is_wrong_shows_in_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: a Reshape keeps its shape of one image."""
    monkeypatch.setattr("tta_server.onboarding.batch.moves._set_shape", lambda *given: None)
    assert refused(tmp_path, nets.reshaped(1, -1)) == "shape inference gives output out 1 rows for any number of images"


def test_without_the_onnx_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(nets.flattened(), tmp_path / "model.onnx")
    file, real = read_model_file(tmp_path / "model.onnx"), builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        ConfigError, match=r"--free-batch needs the onnx package: run `pip install 'tta-server\[compile\]'`"
    ):
        free_batch(file)
