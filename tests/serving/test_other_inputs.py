"""Models that take inputs beside the image, from a folder to answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.support import pictures
from tests.support.examples import times
from tests.support.onnx_models import write_model
from tests.support.several_inputs import DECLARED, LABELS, OTHERS, measuring
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.repository.triton_export import triton_models
from tta_server.serving.executor import ViewExecutor
from tta_server.serving.image import ImageViews, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.views.geometry import Size

CONFIG: dict[str, Any] = {
    "task": "regression",
    "labels": LABELS,
    "input": {"size": "free", "others": OTHERS},
    "output": {},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
    "budget": {"default_ms": 10_000, "max_ms": 10_000, "min_views": "all"},
}
INPUTS = {
    "free": {"size": "free"},
    "multiple": {"size": "free", "multiple": 32, "pad": "zeros"},
    "long side": {"size": "free", "long_side": 48, "multiple": 16, "pad": "zeros"},
    "letterbox": {"size": [40, 40], "resize": "letterbox", "letterbox_fill": 0},
    "top left": {"size": [40, 40], "resize": "letterbox", "letterbox_fill": 0, "letterbox_anchor": "top_left"},
    "exact": {"size": [40, 40]},
}


def white(size: Size) -> pictures.Pixels:
    return np.full((size.height, size.width, 3), 255, np.uint8)


def folder(tmp_path: Path, model: Any = None, **changes: Any) -> Path:
    entry = {"others": OTHERS, **changes.pop("input", {"size": "free"})}
    return write_model(tmp_path / "several", model or measuring(), {**CONFIG, "input": entry, **changes})


def values_of(model: Model, views: ImageViews) -> list[dict[str, float]]:
    found = []
    for entry in range(len(views.layout.buckets)):
        (prediction,) = ViewExecutor().run([(views, entry)]).predictions
        found.append(dict(zip(LABELS, prediction.tolist(), strict=True)))
    return found


def views_of(model: Model, size: Size, max_views: int | None = None) -> ImageViews:
    plan = make_plan(model, Options(max_views=max_views))
    views = ImageViews(plan, make_layout(plan, size), size)
    views.decode(read_source(white(size), Limits()))
    return views


def check(found: dict[str, float], views: ImageViews, entry: int) -> None:
    """The sizes are those of the tensor, and the mask is 1 exactly where the white image lies, not in black bars."""
    place = views.layout.placements[entry]
    width, height = place.tensor
    assert (found["tall"], found["wide"]) == (height, width)
    assert (found["width"], found["height"]) == (width, height)
    assert (found["im height"], found["im width"]) == (height, width)
    assert (found["scale y"], found["scale x"]) == (1, 1)
    assert found["masked"] == place.frame.area
    assert found["missed"] == 0


@pytest.fixture(scope="module", params=INPUTS)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(folder(tmp_path_factory.mktemp("models"), input=INPUTS[request.param]))


@settings(max_examples=times(25))
@given(st.integers(1, 90), st.integers(1, 90))
def test_every_view_is_given_the_sizes_and_the_mask_of_its_own_tensor(measured: Model, width: int, height: int) -> None:
    """Flips, quarter turns and transposes."""
    views = views_of(measured, Size(width, height))
    for entry, found in enumerate(values_of(measured, views)):
        check(found, views, entry)


@settings(max_examples=times(10))
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=5))
def test_images_of_one_batch_each_have_their_own_mask(letterboxed: Model, sizes: list[tuple[int, int]]) -> None:
    images = [views_of(letterboxed, Size(*size)) for size in sizes]
    ran = ViewExecutor().run([(views, 3) for views in images])
    for views, prediction in zip(images, ran.predictions, strict=True):
        check(dict(zip(LABELS, prediction.tolist(), strict=True)), views, 3)


@pytest.fixture(scope="module")
def letterboxed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(folder(tmp_path_factory.mktemp("models"), input=INPUTS["letterbox"]))


def check_served(path: Path) -> Model:
    with load(path, slots=1) as model:
        answer = model.predict(white(Size(70, 30)), include="views")
    assert len(answer.receipt.views) == 8
    for view in answer.receipt.views:
        found = view["values"]
        assert (found["width"], found["height"]) == (found["im width"], found["im height"])
        assert (found["width"], found["height"]) == (found["wide"], found["tall"])
        assert found["missed"] == 0
    assert answer.receipt.warnings == ()
    return model.model


@pytest.mark.parametrize("entry", INPUTS.values(), ids=INPUTS)
def test_answers_of_views(tmp_path: Path, entry: dict[str, Any]) -> None:
    """Warm-up and the checks of load run the model too."""
    check_served(folder(tmp_path, input=entry))


def test_a_batch_axis_of_1_in_another_input_makes_batches_of_one(tmp_path: Path) -> None:
    declared = {**DECLARED, "im_shape": (TensorProto.FLOAT, [1, 2])}
    model = check_served(folder(tmp_path, measuring(declared)))
    assert not model.can_batch
    assert model.observed.warnings == ()


def test_channels_last(tmp_path: Path) -> None:
    entry = {"size": [40, 40], "resize": "letterbox", "letterbox_fill": 0, "layout": "NHWC"}
    assert check_served(folder(tmp_path, measuring(layout="NHWC"), input=entry)).can_batch


def test_types_are_those_of_the_file(tmp_path: Path) -> None:
    declared = {
        "orig_target_sizes": (TensorProto.INT32, ["n", 2]),
        "im_shape": (TensorProto.INT64, ["n", "two"]),
        "scale_factor": (TensorProto.DOUBLE, ["n", 2]),
        "pixel_mask": (TensorProto.BOOL, ["n", "h", "w"]),
    }
    check_served(folder(tmp_path, measuring(declared)))


def test_sizes_where_a_graph_makes_the_views(tmp_path: Path) -> None:
    sizes = {name: function for name, function in OTHERS.items() if function != "mask"}
    entry = {"size": "free", "others": sizes}
    backend = {"name": "onnxruntime", "views": "graph"}
    check_served(folder(tmp_path, measuring(masked=False), input=entry, backend=backend))


def test_the_image_may_be_named(tmp_path: Path) -> None:
    declared = {**DECLARED, "another": (TensorProto.FLOAT, ["n", 3, "h", "w"])}
    assert refusal(folder(tmp_path / "a", measuring(declared))).endswith(
        "the model file takes image, another; set input.name to the one that takes the image"
    )
    named = {"size": "free", "name": "image", "others": {**OTHERS, "another": "ones"}}
    assert "input.others has another: ones, but the model file's input another has the shape" in refusal(
        folder(tmp_path / "b", measuring(declared), input=named)
    )
    check_served(folder(tmp_path / "c", input={"size": "free", "name": "image"}))


@pytest.mark.parametrize(
    ("name", "function", "likely"),
    [("orig_target_sizes", "height_width", "width_height"), ("im_shape", "ones", "height_width")],
)
def test_another_function_than_usual_is_a_warning(tmp_path: Path, name: str, function: str, likely: str) -> None:
    with load(folder(tmp_path, input={"size": "free", "others": {**OTHERS, name: function}}), slots=1) as model:
        (warning,) = model.model.observed.warnings
    assert warning.check == "input.others"
    assert warning.sentence == (
        f"input.others has {name}: {function}, but an input of this name usually takes {likely}, and boxes of inputs "
        f"that are no squares show the difference; set {name}: {likely}"
    )


# ---- what is refused ----


def test_an_export_to_triton(tmp_path: Path) -> None:
    path = folder(tmp_path)
    with pytest.raises(ConfigError) as caught:
        triton_models(load_model(path), path, None)
    assert str(caught.value) == (
        f"{path}/1/model.onnx: the model takes orig_target_sizes, im_shape, scale_factor, pixel_mask beside the image, "
        "which an ensemble does not make; export a model that takes the image alone"
    )


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_inputs_that_are_not_declared_are_named_with_what_they_likely_are(tmp_path: Path) -> None:
    path = folder(tmp_path, input={"size": "free", "others": {"pixel_mask": "mask"}})
    assert refusal(path) == (
        f"{path}/1/model.onnx: the model file also takes orig_target_sizes, im_shape, scale_factor, which tta.yaml "
        "does not declare; set input.others: {orig_target_sizes: width_height, im_shape: height_width, scale_factor: "
        "ones}, with one of width_height, height_width, ones, mask for each of them"
    )


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"name": "pixels"}, "input.name has pixels, but the model file takes image, orig_target_sizes, im_shape"),
        ({"others": {**OTHERS, "prompt": "ones"}}, "input.others has prompt, but the model file takes image, orig"),
        ({"others": {**OTHERS, "image": "ones"}}, "input.others has image, which is the image; remove it there"),
        (
            {"others": {**OTHERS, "pixel_mask": "width_height"}},
            "input.others has pixel_mask: width_height, but the model file's input pixel_mask has the shape "
            "[any, any, any]; width_height gives [N, 2]",
        ),
        (
            {"others": {**OTHERS, "im_shape": "mask"}},
            "input.others has im_shape: mask, but the model file's input im_shape has the shape [any, 2]; mask gives "
            "[N, H, W]",
        ),
        (
            {"others": {**OTHERS, "im_shape": "size"}},
            "input.others.im_shape is 'size'; it should be 'width_height', 'height_width', 'ones' or 'mask'",
        ),
    ],
)
def test_wrong_names_and_functions(tmp_path: Path, entry: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(folder(tmp_path, input={"size": "free", **entry}))


def test_other_types(tmp_path: Path) -> None:
    text = measuring({**DECLARED, "prompt": (TensorProto.STRING, ["n"])})
    assert refusal(
        folder(tmp_path / "a", text, input={"size": "free", "others": {**OTHERS, "prompt": "ones"}})
    ).endswith(
        "input.others has prompt, which is tensor(string); allowed: tensor(int64), tensor(int32), tensor(double), "
        "tensor(bool), tensor(float), tensor(float16), tensor(uint8)"
    )
    half = measuring({**DECLARED, "im_shape": (TensorProto.FLOAT16, ["n", 2])})
    assert "input im_shape is float16; height_width gives int64, int32, float32, float64" in refusal(
        folder(tmp_path / "b", half)
    )


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        (
            {"name": "onnxruntime", "views": "graph"},
            "input.others has pixel_mask: mask, which backend.views: graph does not make; set views: local",
        ),
        *(
            (
                backend,
                "input.others has im_shape, orig_target_sizes, pixel_mask, scale_factor, which only backend: "
                "onnxruntime passes, with device: cpu; set these, or export a model that takes the image alone",
            )
            for backend in (
                {"name": "onnxruntime", "device": "cuda"},
                {"name": "onnxruntime", "device": "auto"},
                "torch",
                {"name": "triton", "url": "grpc://localhost:1", "model": "m"},
            )
        ),
    ],
)
def test_backends_that_do_not_pass_them(tmp_path: Path, backend: Any, sentence: str) -> None:
    path = folder(tmp_path, backend=backend)
    assert refusal(path) == f"{path}/tta.yaml: {sentence}"
