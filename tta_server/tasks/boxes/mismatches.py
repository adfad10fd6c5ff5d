"""What to do about outputs whose shapes are not those of the stated head."""

from collections.abc import Mapping, Sequence

from tta_server.tasks.boxes.heads import HEADS, HeadName
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.shapes import Shapes, fits

Shape = Sequence[int | None]
COEFFICIENTS = 32
"""Columns of a YOLO segmentation model for the masks of a box, and channels of the output that they weigh."""
PERSON = 51
"""Columns of 17 keypoints, as of COCO's persons."""


def expected_shapes(output: BoxesOutput, classes: int, more: int) -> dict[str, Sequence[str | int]]:
    """The shapes of all outputs, by key, if the model has `more` classes than labels."""
    slots = classes + more
    columns = {"box_score_label": 6, "box_class_scores": 4 + slots, "box_objectness_class_scores": 5 + slots}
    row: list[str | int] = ["M", columns[output.holds]]
    return {
        "boxes": ["N", "M", 5 if output.shape.has_scored_boxes else 4],
        "scores": ["N", "M"] if "labels" in output.parts else ["N", "M", slots],
        "labels": ["N", "M"],
        "rows": ["N", *(row[::-1] if output.transposed else row)],
    }


def takes(name: HeadName, classes: int, found: Mapping[str, Shape]) -> bool:
    """Whether a head takes outputs of these shapes, by key."""
    other = BoxesOutput.of(head=name)
    expected = expected_shapes(other, classes, other.slots)
    first = 0 if other.shape.is_batched else 1
    return set(other.parts) == found.keys() and all(fits(found[key], expected[key][first:]) for key in found)


def advice(output: BoxesOutput, classes: int, found: Mapping[str, Shape], outputs: Shapes) -> str:
    """What the outputs, by key, may be instead; `outputs` are all that the model file has, by name."""
    fitting = [name for name in HEADS if name != output.head and takes(name, classes, found)]
    if fitting:
        return f"output.head {' or '.join(fitting)} takes this shape, if there are {classes} classes"
    more = _surplus(output, classes, found)
    if more == COEFFICIENTS and has_masks(outputs):
        return "the model gives masks too, as YOLO's segmentation models: export a detection model"
    if more == PERSON or (classes == 1 and more >= 6 and more % 3 == 0):
        return (
            f"labels lack {more} classes, or these columns are {more // 3} keypoints, as of YOLO's pose models: export "
            "a detection model"
        )
    if more == 1:
        return "labels lack a class, or this is an angle, as of YOLO's rotated boxes: export a detection model"
    return "check the number of labels, and which head the model was exported with"


def has_masks(outputs: Shapes) -> bool:
    """Whether an output is one of which YOLO's segmentation models weigh masks."""
    return any(len(shape) == 4 and shape[1] == COEFFICIENTS for shape in outputs.values())


def _surplus(output: BoxesOutput, classes: int, found: Mapping[str, Shape]) -> int:
    """How many columns the rows have too many; 0 if that is not known."""
    if found.keys() != {"rows"} or len(found["rows"]) != 3:
        return 0
    axis = 1 if output.transposed else 2
    columns, stated = found["rows"][axis], expected_shapes(output, classes, output.slots)["rows"][axis]
    return columns - stated if isinstance(columns, int) and isinstance(stated, int) else 0
