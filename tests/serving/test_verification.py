"""Each check finds the wrong declaration that it is for, and lets a right one near it through."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import graph, write_model
from tests.support.references import MODELS
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.repository.backend_config import BackendConfig
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Model, Observed
from tta_server.serving.verification import verify

WEIGHTS = np.random.default_rng(0).normal(size=(3, 3)) * 3
VECTOR, MAPS = ("n", 3, 8, 8), ("n", 3, "h", "w")

Node = onnx.NodeProto
node = helper.make_node


def classifier(*after: str | Node, weights: np.ndarray = WEIGHTS, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Mean colour times `weights` (3, C), then these operations."""
    nodes = [node("GlobalAveragePool", ["image"], ["g"]), node("Flatten", ["g"], ["f"])]
    return _ended([*nodes, node("MatMul", ["f", "w"], ["t0"])], after, {"w": weights}, VECTOR, ["n", "c"], kind)


def segmenter(*after: str | Node, weights: np.ndarray = WEIGHTS, shape: Any = MAPS, **conv: Any) -> onnx.ModelProto:
    """A convolution with `weights` (C, 3), then these operations."""
    size = conv.get("kernel_shape", [1, 1])
    kernel = np.zeros((len(weights), 3, *size))
    kernel[:, :, 0, 0] = weights
    ended = [node("Conv", ["image", "w"], ["t0"], **conv)]
    return _ended(ended, after, {"w": kernel}, shape, ["n", len(weights), "r", "k"], TensorProto.FLOAT)


def _ended(
    nodes: list[Node], after: tuple[str | Node, ...], constants: dict[str, Any], shape: Any, out: Any, kind: int
) -> onnx.ModelProto:
    for number, step in enumerate(after):
        if isinstance(step, str):
            attributes = {"axis": 1} if step == "Softmax" else {}
            step = node(step, [f"t{number}"], [f"t{number + 1}"], **attributes)
        nodes.append(step)
    nodes.append(node("Cast", [f"t{len(after)}"], ["scores"], to=kind))
    model = graph(nodes, shape, "float32", [helper.make_tensor_value_info("scores", kind, out)])
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return model


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(model: onnx.ModelProto, task: str = "classification", **more: Any) -> Path:
        size = "free" if task == "segmentation" else [8, 8]
        config = {"task": task, "labels": ["a", "b", "c"], "input": {"size": size}, "output": {"kind": "logits"}}
        for key, value in more.items():
            config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value  # type: ignore[dict-item]
        return write_model(tmp_path / "tiny", model, config)

    return written


def observed(folder: Path) -> Observed:
    return verify(load_model(folder))


def check_refused(folder: Path, check: str, *words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        observed(folder)
    sentence = str(refusal.value)
    assert f"(check {check};" in sentence
    assert all(word in sentence for word in words), sentence
    text = (folder / "tta.yaml").read_text()
    (folder / "tta.yaml").write_text(f"{text}checks: {{{check}: off}}\n")
    assert check not in [finding.check for finding in observed(folder).warnings]  # let through


def check_warned(folder: Path, check: str, *words: str) -> Observed:
    found = observed(folder)
    assert [finding.check for finding in found.warnings] == [check]
    assert all(word in found.warnings[0].sentence for word in words), found.warnings[0].sentence
    return found


def check_fine(folder: Path) -> None:
    assert observed(folder) == Observed()


# ---- scores ----


def test_a_softmax_under_logits(write: Write) -> None:
    check_refused(write(classifier("Softmax")), "scores.logits", "sum to 1", "output.kind: probabilities")


def test_a_softmax_under_probabilities_is_right(write: Write) -> None:
    check_fine(write(classifier("Softmax"), output={"kind": "probabilities"}))


def test_logits_that_happen_to_lie_in_0_to_1_are_right(write: Write) -> None:
    check_fine(write(classifier("Sigmoid", "Sqrt")))


def test_logits_of_zero_are_right(write: Write) -> None:
    """A network whose last layer is not trained yet."""
    check_fine(write(classifier(weights=np.zeros((3, 3)))))


def test_a_sigmoid_under_the_logits_of_labels(write: Write) -> None:
    check_refused(write(classifier("Sigmoid"), "multilabel"), "scores.logits", "sigmoid", "output.kind: probabilities")


def test_logits_of_labels_are_right(write: Write) -> None:
    check_fine(write(classifier(), "multilabel"))


def test_a_sigmoid_under_the_logits_of_a_mask(write: Write) -> None:
    folder = write(segmenter("Sigmoid"), "segmentation", output={"multilabel": True})
    check_refused(folder, "scores.logits", "output.kind: probabilities")


def test_a_softmax_under_the_logits_of_a_mask(write: Write) -> None:
    check_refused(write(segmenter("Softmax"), "segmentation"), "scores.logits", "softmax")


def test_logits_of_a_mask_are_right(write: Write) -> None:
    check_fine(write(segmenter(), "segmentation"))


def test_logits_under_probabilities(write: Write) -> None:
    folder = write(classifier(), output={"kind": "probabilities"})
    check_refused(folder, "scores.probabilities", "output.kind: logits")


def test_logits_of_a_mask_under_probabilities(write: Write) -> None:
    folder = write(segmenter(), "segmentation", output={"kind": "probabilities"})
    check_refused(folder, "scores.probabilities", "output.kind: logits")


def test_sigmoids_of_classes_under_probabilities_are_warned_about(write: Write) -> None:
    check_warned(write(classifier("Sigmoid"), output={"kind": "probabilities"}), "scores.sum", "multilabel")


def test_one_label_of_a_mask_under_a_softmax(write: Write) -> None:
    folder = write(segmenter(weights=WEIGHTS[:1]), "segmentation", labels=["crack"])
    check_refused(folder, "scores.one_class", "output.multilabel: true")


def test_one_label_of_a_mask_with_multilabel_is_right(write: Write) -> None:
    check_fine(write(segmenter(weights=WEIGHTS[:1]), "segmentation", labels=["crack"], output={"multilabel": True}))


def test_one_label_of_an_image_under_a_softmax(write: Write) -> None:
    check_refused(write(classifier(weights=WEIGHTS[:, :1]), labels=["x"]), "scores.one_class", "task: multilabel")


def test_quantised_scores(write: Write) -> None:
    model = classifier("Softmax", "Exp", "Exp", kind=TensorProto.UINT8)
    check_refused(write(model), "scores.type", "uint8", "float32")


# ---- input ----


def test_mean_and_std_of_0_to_255_under_a_scale_of_255(write: Write) -> None:
    numbers = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    check_refused(write(classifier(), input=numbers), "input.mean", "input.scale: 1")


def test_mean_and_std_of_0_to_1_under_a_scale_of_1(write: Write) -> None:
    numbers = {"scale": 1, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    check_refused(write(classifier(), input=numbers), "input.mean", "input.scale: 255")


@pytest.mark.parametrize(
    "numbers",
    [
        {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"scale": 1, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
        {"scale": 1, "mean": [103.94, 116.78, 123.68], "std": [1, 1, 1]},  # Caffe's
        {"scale": 1},
        {"scale": 127.5, "mean": [1, 1, 1]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"scale": 58.8, "mean": [1.77, 1.99, 2.1]},  # a scale of 0.017
    ],
)
def test_mean_and_std_that_belong_to_their_scale_are_right(write: Write, numbers: dict[str, Any]) -> None:
    check_fine(write(classifier(), input=numbers))


SKIPPED = 256
"""A multiple that the test images' usual size has, and that is not looked for."""


def unet(multiple: int = 2) -> onnx.ModelProto:
    """Its skip connection fits only sides of that multiple."""
    pooled = node("MaxPool", ["t0"], ["p"], kernel_shape=[multiple] * 2, strides=[multiple] * 2)
    enlarged = node("Resize", ["p", "", "twice"], ["u"], mode="nearest")
    model = segmenter(weights=WEIGHTS)
    cast = model.graph.node.pop()
    model.graph.node.extend([pooled, enlarged, node("Add", ["t0", "u"], ["sum"]), cast])
    cast_again = model.graph.node[-1]
    cast_again.input[0] = "sum"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, multiple, multiple], np.float32), "twice"))
    return model


def test_an_odd_size_that_a_net_can_not_take(write: Write) -> None:
    check_refused(write(unet(), "segmentation"), "input.multiple", "251x217", "input.multiple: 2")


def test_the_multiple_that_it_takes_is_right(write: Write) -> None:
    check_fine(write(unet(), "segmentation", input={"multiple": 2}))


def test_a_multiple_of_the_size_that_fails_is_not_advised(write: Write) -> None:
    """Constants of its export fit multiples of 101 times 103 pixels, as 202 times 206; 256 is even, too."""
    model = with_initializer(segmenter(node("Reshape", ["t0", "parts"], ["t1"])), parts=np.array([-1, 3, 101, 103]))
    with pytest.raises(
        ConfigError, match=r"can't run views of 256x256: .*; set input\.multiple, or a fixed input\.size"
    ):
        observed(write(model, "segmentation"))


def test_no_multiple_is_advised_to_a_file_that_fails_on_what_an_image_shows(write: Write) -> None:
    """A shape is computed from the image's values, and fits black ones."""
    rows = [
        node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        node("Mul", ["brightest", "far"], ["product"]),
        node("Cast", ["product"], ["whole"], to=TensorProto.INT64),
        node("Add", ["whole", "rows"], ["parts"]),
        node("Reshape", ["image", "parts"], ["side"]),
    ]
    model = with_initializer(segmenter(), far=np.array([1e6], np.float32), rows=np.array([1, -1]))
    model = with_output(model, "side", ["a", "b"], *rows)
    with pytest.raises(ConfigError, match=r"zeros of that size runs, so that no input\.multiple helps"):
        observed(write(model, "segmentation", input={"scale": 1}, output={"name": "scores"}))


# ---- maps ----


def test_a_convolution_without_padding(write: Write) -> None:
    model = segmenter(shape=("n", 3, 64, 64), kernel_shape=[9, 9])
    check_refused(write(model, "segmentation", input={"size": [64, 64]}), "maps.stride", "56x56", "64x64", "padding")


def test_a_convolution_with_padding_is_right(write: Write) -> None:
    model = segmenter(shape=("n", 3, 64, 64), kernel_shape=[9, 9], pads=[4] * 4)
    check_fine(write(model, "segmentation", input={"size": [64, 64]}))


def test_a_stride_of_4_is_right_at_every_size(write: Write) -> None:
    check_fine(write(segmenter(kernel_shape=[3, 3], strides=[4, 4], pads=[1] * 4), "segmentation"))


# ---- values ----


def test_nan_for_every_image(write: Write) -> None:
    check_refused(write(classifier("Softmax", "Neg", "Log")), "outputs.finite", "NaN", "float16")


def test_nan_for_some_images_is_warned_about(write: Write) -> None:
    """The root of the mean less a tenth: of the black image none."""
    model = classifier(
        node("Sub", ["t0", "tenth"], ["t1"]), "Sqrt", weights=np.eye(3)
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "tenth"))
    check_warned(write(model), "outputs.finite_always", "black")


def test_another_output_each_time_is_warned_about(write: Write) -> None:
    noisy = node("RandomNormalLike", ["t0"], ["noise"])
    model = classifier(noisy, node("Add", ["t0", "noise"], ["t2"]))
    check_warned(write(model), "outputs.repeatable", "training mode")


# ---- batches ----


def mixing() -> onnx.ModelProto:
    """Subtracts the mean of the batch, as batch normalisation in training mode does."""
    mean = node("ReduceMean", ["t0"], ["m"], axes=[0], keepdims=1)
    return classifier(mean, node("Sub", ["t0", "m"], ["d"]), node("Add", ["d", "d"], ["t3"]))


def test_images_that_share_a_batch_and_change_each_other_run_alone(write: Write) -> None:
    found = check_warned(write(mixing()), "batch.independent", "batches of one")
    assert not found.can_batch


def test_a_lost_row_makes_batches_of_one(write: Write) -> None:
    first = node("Slice", ["t0", "from", "to", "axis"], ["t1"])
    model = classifier(first)
    for name, value in {"from": [0], "to": [1], "axis": [0]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    found = check_warned(write(model), "batch.rows", "batches of one")
    assert not found.can_batch


def reshaped() -> onnx.ModelProto:
    """Its file says that the batch is free, but a reshape in it knows only one image."""
    model = classifier(node("Reshape", ["t0", "shape"], ["t1"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3], np.int64), "shape"))
    return model


def test_a_reshape_to_one_image_makes_batches_of_one(write: Write) -> None:
    folder = write(reshaped(), policy=["identity", {"brightness": 1.2}, {"brightness": 0.8}])
    found = check_warned(folder, "batch.rows", "Reshape", "batches of one")
    assert not found.can_batch
    with load(folder, slots=1) as model:
        answer = model.predict(np.full((8, 8, 3), 90, np.uint8), stop="all", min_views="all")
        assert len(answer.receipt.views) == 3


# ---- what is said ----


class Counting:
    """A backend that counts its runs."""

    def __init__(self, model: Model) -> None:
        self._backend, self.signature, self.runs = model.backend, model.backend.signature, 0
        self.device, self.ladder = model.backend.device, model.backend.ladder

    def infer(self, batch: np.ndarray, abort: Any = None) -> Any:
        self.runs += 1
        return self._backend.infer(batch, abort)

    def close(self) -> None:
        self._backend.close()


def check_runs(model: Model) -> None:
    backend = Counting(model)
    with contextlib.suppress(ConfigError):
        verify(replace(model, backend=backend))
    assert 5 < backend.runs <= 20


class Rounding(Counting):
    """A device whose sums differ by 5 % in batches of another size, or, with `mixes`, by what else is in a batch."""

    def __init__(self, model: Model, mixes: bool) -> None:
        super().__init__(model)
        self.device, self.mixes = "gpu:0", mixes

    def infer(self, batch: np.ndarray, abort: Any = None) -> Any:
        found = super().infer(batch, abort)
        factor = 1 + 0.05 * len(batch) + self.mixes * float(batch.mean())
        return {name: values * np.float32(factor) for name, values in found.items()}


@pytest.mark.parametrize(("precision", "mixes"), [("exact", False), ("fp16", False), ("fp16", True)])
def test_low_precision_is_compared_in_batches_of_equal_size(precision: str, mixes: bool) -> None:
    """Exact sums may not depend on the size; rounded ones may, but not on other images."""
    model = load_model(MODELS / "cifar10")
    config = model.config.model_copy(update={"backend": BackendConfig(device="cuda", precision=precision)})
    found = verify(replace(model, config=config, backend=Rounding(model, mixes)))
    independent = precision == "fp16" and not mixes
    assert ("batch.independent" not in [each.check for each in found.warnings]) == independent
    assert found.can_batch == independent


@pytest.mark.parametrize("path", find_models(MODELS), ids=lambda path: path.name)
def test_a_bundled_model_is_run_at_most_20_times(path: Path) -> None:
    check_runs(load_model(path))


@pytest.mark.parametrize("checks", ["", "checks: {input.multiple: off}\n"])
def test_a_model_whose_multiple_is_looked_for_is_run_at_most_20_times(write: Write, checks: str) -> None:
    """None of those that are tried fits: its skip connection needs one that is too large to be tried."""
    folder = write(unet(SKIPPED), "segmentation", input={"multiple": 1})
    (folder / "tta.yaml").write_text((folder / "tta.yaml").read_text() + checks)
    check_runs(load_model(folder))


def test_a_slow_model_and_all_warnings_are_logged_at_load(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(mixing(), budget={"default_ms": 0.001})
    with caplog.at_level(logging.WARNING), load(folder, slots=1) as model:
        checks = [finding.check for finding in model.model.observed.warnings]
    assert checks == ["batch.independent", "budget.default_ms"]
    logged = [record.getMessage() for record in caplog.records]
    assert all(any(f"(check {check})" in line for line in logged) for check in checks)
    assert any("set budget.default_ms: 500" in line for line in logged)


# ---- what a review found ----


def with_initializer(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def with_output(model: onnx.ModelProto, name: str, shape: list[Any], *nodes: Node) -> onnx.ModelProto:
    """The model with one more output, which tta.yaml does not name."""
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def test_outputs_that_tta_yaml_does_not_name_do_not_count(write: Write) -> None:
    """A scalar, as CLIP's logit_scale; random numbers; the mean of the batch."""
    model = with_output(classifier(), "scale", [], node("ReduceMax", ["t0"], ["scale"], keepdims=0))
    model = with_output(model, "noise", ["n", 3], node("RandomNormalLike", ["t0"], ["noise"], dtype=TensorProto.FLOAT))
    model = with_output(model, "mean", [1, 3], node("ReduceMean", ["t0"], ["mean"], axes=[0], keepdims=1))
    check_fine(write(model, output={"name": "scores"}))


def test_mixing_shows_under_a_sharp_softmax(write: Write) -> None:
    mean = node("ReduceMean", ["t0"], ["m"], axes=[0], keepdims=1)
    sharp = classifier(mean, node("Sub", ["t0", "m"], ["d"]), node("Mul", ["d", "many"], ["t3"]), "Softmax")
    sharp = with_initializer(sharp, many=np.array(50, np.float32))
    assert not check_warned(write(sharp, output={"kind": "probabilities"}), "batch.independent").can_batch


@pytest.mark.parametrize("mask", [-1e4, -np.inf])
def test_mixing_shows_beside_a_class_that_is_masked(write: Write, mask: float) -> None:
    mean = node("ReduceMean", ["t0"], ["m"], axes=[0], keepdims=1)
    masked = classifier(mean, node("Sub", ["t0", "m"], ["d"]), node("Add", ["d", "mask"], ["t3"]))
    masked = with_initializer(masked, mask=np.array([0, 0, mask], np.float32))
    assert not check_warned(write(masked), "batch.independent").can_batch


@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 2e-3, 1.0])
def test_a_random_model_is_never_taken_for_a_stateful_one(write: Write, sigma: float) -> None:
    noisy = node("RandomNormalLike", ["t0"], ["noise"], scale=sigma)
    folder = write(classifier(noisy, node("Add", ["t0", "noise"], ["t2"])))
    assert {finding.check for finding in observed(folder).warnings} <= {"outputs.repeatable"}


class Remembering:
    """A backend whose scores hold a part of the image before."""

    def __init__(self, model: Any) -> None:
        self._backend, self.signature, self._last = model.backend, model.backend.signature, np.float32(0)
        self.device, self.ladder = model.backend.device, model.backend.ladder

    def infer(self, batch: np.ndarray, abort: Any = None) -> dict[str, np.ndarray]:
        found = {name: values + self._last for name, values in self._backend.infer(batch).items()}
        self._last = batch.mean() / 2
        return found

    def close(self) -> None:
        self._backend.close()


def test_a_model_that_remembers_images_is_refused(write: Write) -> None:
    model = load_model(write(classifier()))
    with pytest.raises(ConfigError, match="depends on the images before it"):
        verify(replace(model, backend=Remembering(model)))


def test_dynamic_quantisation_of_the_input_runs_alone(write: Write) -> None:
    """A dim image loses its grey levels beside a bright one."""
    nodes = [
        node("DynamicQuantizeLinear", ["image"], ["q", "step", "zero"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["back"]),
        node("GlobalAveragePool", ["back"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w"], ["t0"]),
    ]
    model = _ended(nodes, (), {"w": WEIGHTS * 10}, VECTOR, ["n", "c"], TensorProto.FLOAT)
    assert not check_warned(write(model), "batch.independent").can_batch


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_quantised_softmax(write: Write, classes: int) -> None:
    """Steps of 1/256: a thousand of them do not sum to 1, but are probabilities all the same."""
    steps = [node("Mul", ["t1", "steps"], ["t2"]), node("Round", ["t2"], ["t3"]), node("Div", ["t3", "steps"], ["t4"])]
    model = classifier("Softmax", *steps, weights=np.random.default_rng(1).normal(size=(3, classes)))
    model = with_initializer(model, steps=np.array(256, np.float32))
    labels = [f"class {number}" for number in range(classes)]
    folder = write(model, labels=labels, output={"kind": "probabilities"})
    check_fine(folder)
    (folder / "tta.yaml").write_text((folder / "tta.yaml").read_text().replace("probabilities", "logits"))
    check_refused(folder, "scores.logits", "output.kind: probabilities")


@pytest.mark.parametrize(("kernel", "stride"), [(3, 16), (2, 16), (3, 32)])
def test_a_coarse_convolution_without_padding(write: Write, kernel: int, stride: int) -> None:
    """Whole patches, then a convolution that loses a border of them."""
    patches = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
    then = node("Conv", ["t0", "k"], ["t1"], kernel_shape=[kernel] * 2)
    model = segmenter(then, shape=("n", 3, 256, 256), **patches)
    model = with_initializer(model, k=np.ones((3, 3, kernel, kernel), np.float32))
    check_refused(write(model, "segmentation", input={"size": [256, 256]}), "maps.stride", "padding")


def resized(size: list[int]) -> onnx.ModelProto:
    """Its last step resizes the map to this size, whatever the input's is."""
    model = segmenter(node("Resize", ["t0", "", "", "size"], ["t1"], mode="linear"))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "r2"
    return with_initializer(model, size=np.array([1, 3, *size], np.int64))


@pytest.mark.parametrize("stride", [2, 32])
def test_a_map_that_is_larger_than_an_odd_input_gets_the_multiple(write: Write, stride: int) -> None:
    """An encoder that rounds up, and a decoder that enlarges by as much."""
    coarse = {"kernel_shape": [stride] * 2, "strides": [stride] * 2, "auto_pad": "SAME_UPPER"}
    model = segmenter(node("Resize", ["t0", "", "times"], ["t1"], mode="nearest"), **coarse)
    model = with_initializer(model, times=np.array([1, 1, stride, stride], np.float32))
    check_refused(write(model, "segmentation"), "maps.stride", f"set input.multiple: {stride}")


def test_a_map_that_the_model_resizes_to_a_fixed_size_is_right(write: Write) -> None:
    folder = write(resized([128, 128]), "segmentation")
    assert [finding.check for finding in observed(folder).warnings] == ["batch.rows"]  # its size holds a batch of one


def test_a_model_of_patches_gets_the_multiple(write: Write) -> None:
    """Patches of 14 pixels: 256 is no multiple of it."""
    fold = node("Reshape", ["image", "parts"], ["folded"])
    mean = node("ReduceMean", ["folded"], ["means"], axes=[3, 5], keepdims=0)
    out = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 3, "r", "k"])
    shape = node("Shape", ["image"], ["shape"])
    rows = node("Slice", ["shape", "two", "four"], ["sides"])
    parts = [node("Div", ["sides", "patch"], ["counts"]), node("Split", ["counts"], ["down", "across"], axis=0)]
    joined = node("Concat", ["one", "three", "down", "fourteen", "across", "fourteen"], ["parts"], axis=0)
    model = graph(
        [shape, rows, *parts, joined, fold, mean, node("Identity", ["means"], ["maps"])], MAPS, "float32", [out]
    )
    numbers = {"two": [2], "four": [4], "patch": [14], "one": [-1], "three": [3], "fourteen": [14]}
    model = with_initializer(model, **{name: np.array(value, np.int64) for name, value in numbers.items()})
    folder = write(model, "segmentation", input={"scale": 1})
    with pytest.raises(ConfigError, match=r"set input\.multiple: 14"):
        observed(folder)
    (folder / "tta.yaml").write_text((folder / "tta.yaml").read_text().replace("scale: 1", "scale: 1\n  multiple: 14"))
    check_fine(folder)


def test_a_small_mean_under_a_scale_of_1(write: Write) -> None:
    check_refused(write(classifier(), input={"scale": 1, "mean": [0.485, 0.456, 0.406]}), "input.mean", "scale: 255")


def test_percentages_are_refused_with_how_to_mend_them(write: Write) -> None:
    hundred = node("Mul", ["t1", "hundred"], ["t2"])
    model = with_initializer(classifier("Softmax", hundred), hundred=np.array(100, np.float32))
    check_refused(write(model, output={"kind": "probabilities"}), "scores.probabilities", "divide by 100")
