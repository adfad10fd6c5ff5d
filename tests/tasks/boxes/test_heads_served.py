"""Every head from a model folder to an answer: a real file that gives its form, and boxes that are known."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tests.support.head_models import INPUT, MAKERS, OTHERS, head_model
from tests.support.onnx_models import GREY, write_model
from tests.tasks.boxes.test_detection_served import LABELS, boxes_of, expected, lit
from tta_server import load
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.triton_export import triton_models
from tta_server.serving.executor import ViewExecutor, check_rows, infer
from tta_server.serving.image import ImageViews, ViewError, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks.boxes.heads import HEADS, HeadName
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.views.geometry import Size

CONFIG: dict[str, Any] = {
    "task": "detection",
    "labels": LABELS,
    "input": {"size": [INPUT.height, INPUT.width]},
    "policy": "flips",
    "symmetries": ["hflip", "vflip", "rot180"],
    "budget": {"default_ms": 10_000, "max_ms": 10_000, "min_views": "all"},
}
NAMES = {
    "torchvision": {part: f"found {part}" for part in ("boxes", "scores", "labels")},
    "d_fine": {"boxes": "their boxes"},
    "rf_detr": {"scores": "their labels"},
}
SCENE = [(0, (4, 6, 44, 30), 250), (1, (60, 8, 90, 56), 220), (2, (12, 36, 30, 62), 190)]
"""In 96x64 pixels."""


def folder(tmp_path: Path, head: str, model: str = "", **changes: Any) -> Path:
    output = {"head": head, **NAMES.get(head, {}), **changes.pop("output", {})}
    entry = {**changes.pop("input", CONFIG["input"]), "others": OTHERS.get(model or head, {})}
    content = {**CONFIG, "output": output, "input": entry, **changes}
    return write_model(tmp_path / head, head_model(model or head), content)


def test_every_head_has_a_model_and_a_name() -> None:
    assert HEADS.keys() == MAKERS.keys() == set(get_args(HeadName))


@pytest.mark.parametrize("head", HEADS)
def test_every_view_and_the_merge_give_the_known_boxes(tmp_path: Path, head: str) -> None:
    with load(folder(tmp_path, head), slots=1) as model:
        answer = model.predict(lit(INPUT, *SCENE), include="views")
        nothing = model.predict(lit(INPUT))
    assert len(answer.receipt.views) > 1
    for boxes in [answer.prediction["boxes"], *(view["boxes"] for view in answer.receipt.views)]:
        found, wanted = boxes_of(boxes), expected(*SCENE)
        assert [label for label, *_ in found] == [label for label, *_ in wanted]
        np.testing.assert_allclose([score for _, score, _ in found], [score for _, score, _ in wanted], atol=1e-5)
        np.testing.assert_allclose([box for *_, box in found], [box for *_, box in wanted], atol=1e-3)
    assert nothing.prediction["boxes"] == []
    assert answer.receipt.warnings == ()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [Size(288, 64), Size(48, 128)])
def test_boxes_of_letterboxed_images_come_back(tmp_path: Path, head: str, size: Size) -> None:
    """The edges of a rectangle in a wide and a high image, within a pixel of the input."""
    entry = {"size": [INPUT.height, INPUT.width], "resize": "letterbox", "letterbox_fill": 0}
    box = (size.width // 4, size.height // 4, size.width // 2, size.height // 4 * 3)
    with load(folder(tmp_path, head, input=entry), slots=1) as model:
        (found,) = model.predict(lit(size, (1, box, 255))).prediction["boxes"]
    assert found["label"] == "green"
    np.testing.assert_allclose(found["box"], box, atol=3)


def check_torchvision(path: Path) -> None:
    """The known boxes, plain and flipped, and no answer for numbers that are none."""
    broken = lit(INPUT, *SCENE)
    broken[0, 0, 0] = GREY
    with load(path, slots=1) as model:
        answer = model.predict(lit(INPUT, *SCENE), include="views")
        with pytest.raises(BackendFailed, match="holds NaN or infinity"):
            model.predict(broken)
    for boxes in [answer.prediction["boxes"], *(view["boxes"] for view in answer.receipt.views)]:
        assert boxes_of(boxes) == expected(*SCENE)


def test_an_image_without_a_batch_axis_is_run_alone(tmp_path: Path) -> None:
    """As torch exports a model that takes a list of images."""
    output = {"head": "torchvision", **NAMES["torchvision"]}
    model = head_model("torchvision", of_one_image=True)
    check_torchvision(write_model(tmp_path / "list", model, {**CONFIG, "output": output}))


@pytest.mark.parametrize("views", ["local", "graph"])
def test_lists_are_read_wherever_views_are_made(tmp_path: Path, views: str) -> None:
    check_torchvision(folder(tmp_path, "torchvision", backend={"name": "onnxruntime", "views": views}))


@pytest.mark.parametrize("head", ["d_fine", "paddle", "openvino_ssd"])
def test_further_inputs_and_joined_lists_where_a_graph_makes_the_views(tmp_path: Path, head: str) -> None:
    path = folder(tmp_path, head, backend={"name": "onnxruntime", "views": "graph"})
    with load(path, slots=1) as model:
        answer = model.predict(lit(INPUT, *SCENE), include="views")
    for boxes in [answer.prediction["boxes"], *(view["boxes"] for view in answer.receipt.views)]:
        found, wanted = boxes_of(boxes), expected(*SCENE)
        assert [label for label, *_ in found] == [label for label, *_ in wanted]
        np.testing.assert_allclose([box for *_, box in found], [box for *_, box in wanted], atol=1e-3)


@pytest.mark.parametrize("views", ["local", "graph"])
@pytest.mark.parametrize("head", [head for head in HEADS if head != "yolox"])
def test_quarter_turns_of_an_image_that_is_no_square(tmp_path: Path, head: str, views: str) -> None:
    """The turned input has its sides swapped, and so have the sizes that some models take beside it."""
    content = {
        **CONFIG,
        "input": {"size": "free", "others": OTHERS.get(head, {})},
        "output": {"head": head, **NAMES.get(head, {})},
        "policy": "d4",
        "symmetries": ["hflip", "rot90"],
        "backend": {"name": "onnxruntime", "views": views},
    }
    with load(write_model(tmp_path / head, head_model(head, is_free=True), content), slots=1) as model:
        answer = model.predict(lit(INPUT, *SCENE), include="views")
    assert len(answer.receipt.views) == 8
    for boxes in [answer.prediction["boxes"], *(view["boxes"] for view in answer.receipt.views)]:
        found, wanted = boxes_of(boxes), expected(*SCENE)
        assert [label for label, *_ in found] == [label for label, *_ in wanted]
        np.testing.assert_allclose([box for *_, box in found], [box for *_, box in wanted], atol=1e-3)


@pytest.mark.parametrize("stated", HEADS)
@pytest.mark.parametrize("head", HEADS)
def test_no_file_of_another_head_is_served(tmp_path: Path, head: str, stated: str) -> None:
    """Whatever names are stated for its outputs."""
    if head == stated:
        return
    names = [output.name for output in head_model(head).graph.output]
    parts = BoxesOutput.of(head=stated).parts
    orders = list(permutations(names, len(parts))) or [tuple(names[:1]) * len(parts)]
    for i, order in enumerate(orders):
        output = dict(zip(parts, order, strict=True))
        with pytest.raises(ConfigError) as caught:
            load(folder(tmp_path / str(i), stated, head, output=output), slots=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", [head for head in HEADS if head != "torchvision"])
def test_images_of_one_batch_keep_their_own_boxes(tmp_path: Path, head: str) -> None:
    """One, nothing, three and two of them, each mirrored."""
    model = load_model(folder(tmp_path, head))
    scenes = [SCENE[:1], [], SCENE, SCENE[1:]]
    plan = make_plan(model, Options())
    images = [ImageViews(plan, make_layout(plan, INPUT), INPUT) for _ in scenes]
    for views, scene in zip(images, scenes, strict=True):
        views.decode(read_source(lit(INPUT, *scene), Limits()))
    ran = ViewExecutor().run([(views, 1) for views in images])
    for prediction, scene in zip(ran.predictions, scenes, strict=True):
        assert not isinstance(prediction, ViewError)
        found = prediction.boxes
        wanted = expected(*scene)
        assert [LABELS[i] for i in found.label] == [label for label, *_ in wanted]
        np.testing.assert_allclose(found.xyxy, np.reshape([box for *_, box in wanted], (-1, 4)), atol=1e-3)


class Laddered:
    """The backend of a model, but only for batches of four."""

    permits, where, ladder = 0, "", (4,)

    def __init__(self, real: Backend) -> None:
        self._real = real
        self.signature, self.device = real.signature, real.device

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        assert len(batch) == 4
        return self._real.infer(batch, abort)

    def close(self) -> None: ...


@pytest.mark.parametrize("head", ["paddle", "openvino_ssd", "mmdeploy"])
def test_a_padded_batch_gives_each_image_its_boxes(tmp_path: Path, head: str) -> None:
    model = load_model(folder(tmp_path, head))
    model = replace(model, backend=Laddered(model.backend))
    plan = make_plan(model, Options())
    images = [ImageViews(plan, make_layout(plan, INPUT), INPUT) for _ in range(3)]
    for views, scene in zip(images, (SCENE[:1], SCENE, SCENE[1:]), strict=True):
        views.decode(read_source(lit(INPUT, *scene), Limits()))
    outputs = infer([(views, 0) for views in images])
    found = [views.read(0, outputs, row).boxes.label.tolist() for row, views in enumerate(images)]
    assert found == [[0], [0, 1, 2], [1, 2]]


@pytest.mark.parametrize("head", ["paddle", "mmdeploy"])
def test_only_rows_that_count_the_images_show_that_an_image_is_missing(tmp_path: Path, head: str) -> None:
    """One of two predictions could not be read, of five boxes; that of the other is right if they are joined."""
    task = load_model(folder(tmp_path, head)).task
    outputs = {name: np.zeros((5, 6), np.float32) for name in task.reads}
    predictions = [object(), ViewError(ValueError("x"), "x")]
    if head == "paddle":
        check_rows(task, outputs, predictions, 2)
    else:
        with pytest.raises(BackendFailed, match="another number of rows than the batch has views"):
            check_rows(task, outputs, predictions, 2)


@pytest.mark.parametrize("head", ["paddle", "openvino_ssd"])
def test_a_joined_list_can_not_be_exported_to_triton(tmp_path: Path, head: str) -> None:
    path = folder(tmp_path, head)
    with pytest.raises(ConfigError, match="one list has the boxes of all images, which an ensemble can't return"):
        triton_models(load_model(path), path, None)


def test_a_model_that_gives_all_boxes_to_the_first_image_is_run_one_by_one(tmp_path: Path) -> None:
    """Its list then holds those of the other images too."""
    model = head_model("openvino_ssd")
    (number,) = (node for node in model.graph.node if node.op_type == "CumSum")
    number.op_type, number.input[1] = "Mul", number.input[0]
    path = write_model(tmp_path / "first", model, {**CONFIG, "output": {"head": "openvino_ssd"}})
    with load(path, slots=1) as loaded:
        assert [warning.check for warning in loaded.model.observed.warnings] == ["batch.independent"]
        assert not loaded.model.can_batch
        answer = loaded.predict(lit(INPUT, *SCENE))
    assert boxes_of(answer.prediction["boxes"]) == expected(*SCENE)
