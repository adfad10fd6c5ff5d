"""What to do about outputs whose shapes are not those of the stated head."""

from collections.abc import Mapping, Sequence

from tta_server.tasks.boxes.heads import HEADS, HeadName, Joined
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.shapes import Shapes, fits, format_shape

Shape = Sequence[int | None]
COEFFICIENTS = 32
"""Columns of a YOLO segmentation model for the masks of a box, and channels of the output that they weigh."""
PERSON = 51
"""Columns of 17 keypoints, as of COCO's persons."""


LISTS: Mapping[HeadName, str] = {
    "torchvision": "lists of one image, without a batch axis",
    "paddle": "one list of the boxes of all images",
    "openvino_ssd": "one list of the boxes of all images with their numbers",
}
"""Heads that no keys alone state."""


def expected_shapes(output: BoxesOutput, classes: int, more: int) -> dict[str, Sequence[str | int]]:
    """The shapes of all outputs, by key, if the model has `more` classes than labels."""
    slots = classes + more
    columns = {"box_class_scores": 4 + slots, "box_objectness_class_scores": 5 + slots, "image_label_score_box": 7}
    row: list[str | int] = ["M", columns.get(output.holds, 6)]
    batch: Mapping[Joined | None, list[str | int]] = {None: ["N"], Joined.BY_COUNTS: [], Joined.BY_NUMBER: [1, 1]}
    return {
        "boxes": ["N", "M", 5 if output.shape.has_scored_boxes else 4],
        "scores": ["N", "M"] if "labels" in output.parts else ["N", "M", slots],
        "labels": ["N", "M"],
        "rows": [*batch[output.shape.joined], *(row[::-1] if output.transposed else row)],
        "counts": ["N"],
    }


def takes(name: HeadName, classes: int, found: Mapping[str, Shape]) -> bool:
    """Whether a head takes outputs of these shapes, by key."""
    other = BoxesOutput.of(head=name)
    expected = expected_shapes(other, classes, other.slots)
    first = 0 if other.shape.is_batched else 1
    return set(other.parts) == found.keys() and all(fits(found[key], expected[key][first:]) for key in found)


def recognized(classes: int, outputs: Shapes) -> Sequence[HeadName]:
    """The heads that take a model file's outputs, by name and shape; without usual names, its only output."""
    found: list[HeadName] = []
    for name in HEADS:
        parts = _usual_parts(name, outputs)
        if all(own in outputs for own in parts.values()) and takes(
            name, classes, {key: outputs[own] for key, own in parts.items()}
        ):
            found.append(name)
    return found


def _usual_parts(name: HeadName, outputs: Shapes) -> Mapping[str, str]:
    """The outputs that a head reads, by key, if they have their usual names."""
    usual = BoxesOutput.of(head=name)
    only = next(iter(outputs)) if len(outputs) == 1 else ""
    return {key: getattr(usual, key) or only for key in usual.parts}


def other_lengths(output: BoxesOutput, classes: int, names: Mapping[str, str], outputs: Shapes) -> str:
    """What is wrong if rows of a fixed number are stated as lists of what was found, or such lists as rows of queries.

    Of one image their shapes differ in nothing else; empty if nothing is wrong.
    """
    other: Mapping[HeadName | None, HeadName] = {"torchvision": "d_fine", "d_fine": "torchvision"}
    shape = outputs[names["boxes"]] if output.head in other else ()
    if len(shape) != 3 or shape[0] != 1 or (shape[1] is None) is (output.head == "torchvision"):
        return ""
    length = "a fixed number of rows, not a list of what it found" if shape[1] else "a list of what it found"
    return (
        f"output.head {output.head} does not fit {names['boxes']} {format_shape(shape)}: the model gives {length}; "
        f"output.head {other[output.head]} takes this shape, if there are {classes} classes"
    )


def other_names(output: BoxesOutput, classes: int, names: Mapping[str, str], outputs: Shapes) -> str:
    """What is wrong if all outputs that a head reads, by key, have the usual names of another, which takes them.

    Shapes alone do not show that; empty if nothing is.
    """
    own = HEADS[output.head].usual if output.head else {}
    if all(own.get(key, name) == name for key, name in names.items()):
        return ""
    others = [
        head
        for head in recognized(classes, outputs)
        if head != output.head and all(HEADS[head].usual.get(key) == name for key, name in names.items())
    ]
    if not others:
        return ""
    return (
        f"output.head {output.head} reads {', '.join(names.values())}, which are the outputs of output.head "
        f"{' or '.join(others)}: set that, or state the output's keys without a head"
    )


def advice(output: BoxesOutput, classes: int, found: Mapping[str, Shape], outputs: Shapes) -> str:
    """What the outputs, by key, may be instead; `outputs` are all that the model file has, by name."""
    fitting = [name for name in HEADS if name != output.head and takes(name, classes, found)]
    known = [name for name in recognized(classes, outputs) if name != output.head]
    if fitting:
        fitting = [name for name in fitting if name in known] or fitting
        angle = "; or the last column is an angle, as of YOLO's rotated boxes, which are not read"
        is_angle = output.has_numbers and _surplus(output, classes, found) == 1
        sentence = f"output.head {' or '.join(fitting)} takes this shape, if there are {classes} classes"
        return sentence + angle * is_angle
    if known:
        return f"output.head {' or '.join(known)} takes the file's outputs, if there are {classes} classes"
    more = _surplus(output, classes, found)
    if more == COEFFICIENTS and (output.has_numbers or has_masks(outputs)):
        return "the model gives masks too, as YOLO's segmentation models: export a detection model"
    labels = "" if output.has_numbers else f"labels lack {'a class' if more == 1 else f'{more} classes'}, or "
    if more == PERSON or (more >= 6 and more % 3 == 0 and (classes == 1 or output.has_numbers)):
        return f"{labels}these columns are {more // 3} keypoints, as of YOLO's pose models: export a detection model"
    if more == 1:
        return f"{labels}this is an angle, as of YOLO's rotated boxes: export a detection model"
    if more > 0 and output.has_numbers:
        return f"{more} further columns, of masks or points, are not read: export a detection model"
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
