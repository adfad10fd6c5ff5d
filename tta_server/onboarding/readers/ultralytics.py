"""Metadata that Ultralytics writes into its exports: Python literals.

Preprocessing is that of its own predictor (8.4): a letterbox of grey 114, or for classifiers the short side and a
centre crop, RGB from 0 to 1. Boxes are centres and sides in pixels; with its own suppression (`nms`, `end2end`) they
are corners, score and class.
"""

from collections.abc import Iterator, Mapping

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Refusal
from tta_server.onboarding.model_file import ModelFile, TensorInfo
from tta_server.onboarding.readers.labels import label_facts, numbered
from tta_server.onboarding.readers.literals import read_literal

NOT_SERVED = {
    "segment": "masks of single objects",
    "pose": "points that belong to boxes",
    "obb": "rotated boxes",
    "depth": "maps of depth",
}
"""Task of Ultralytics -> what it answers, which no task of tta.yaml has."""
SERVED = "detect, classify and semantic are served"
MIN_SCORE = 0.25
"""Default of Ultralytics' predictor, conf; that of iou is the head's."""


def read_ultralytics(evidence: Evidence) -> Iterator[Finding]:
    """The facts of a detector, a classifier or a map of classes; other tasks are refused by name."""
    found = evidence.file.metadata
    if "task" not in found or not {"names", "stride", "imgsz"} & found.keys():
        return
    task = found["task"]
    if task not in ("detect", "classify", "semantic"):
        answers = f" ({NOT_SERVED[task]})" if task in NOT_SERVED else ""
        yield Refusal(
            "task", f"metadata task is {task!r}: Ultralytics models of that task{answers} are not served yet; {SERVED}"
        )
        return
    names = numbered(read_literal(found.get("names", "")))
    if names:
        yield from label_facts(names, f"metadata names, {len(names)} of them")
    yield from _pixels(found)
    size = _size(found.get("imgsz", ""))
    if size:
        yield Fact("input.size", size, "metadata imgsz")
    if task == "classify":
        yield from _classifier(size)
    elif task == "semantic":
        yield from _class_map(evidence.file)
    else:
        yield from _detector(evidence.file, len(names or ()))


def _pixels(found: Mapping[str, str]) -> Iterator[Finding]:
    channels = read_literal(found.get("channels", "3"))
    source = f"metadata channels is {channels}" if "channels" in found else "Ultralytics' own"
    if channels not in (1, 3):
        yield Refusal("input.color", f"metadata channels is {channels}; images have 1 (grey) or 3")
    yield Fact("input.color", "grey" if channels == 1 else "RGB", source)
    for key, value in (("scale", 255), ("mean", [0]), ("std", [1])):
        yield Fact(f"input.{key}", value, "Ultralytics divides by 255 and does no more")
    yield Fact("input.interpolation", "bilinear", "Ultralytics' own")


def _size(text: str) -> list[int] | None:
    """[height, width] of `imgsz`, which may be one number."""
    found = read_literal(text)
    sides = [found, found] if isinstance(found, int) else found
    whole = isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)
    return list(sides) if whole else None


def _classifier(size: list[int] | None) -> Iterator[Finding]:
    yield Fact("task", "classification", "metadata task is classify")
    yield Fact("output.kind", "probabilities", "Ultralytics' classifiers end with a softmax")
    yield Fact("input.resize_like", "pillow", "Ultralytics' classifiers resize with Pillow")
    if size:
        square = size[0] == size[1]
        how = "the short side, then a centre crop" if square else "to the size"
        yield Fact("input.resize", size[0] if square else "exact", f"Ultralytics' classifiers resize {how}")


def _detector(file: ModelFile, classes: int) -> Iterator[Finding]:
    yield Fact("task", "detection", "metadata task is detect")
    yield from _letterbox()
    named = [output for output in file.tensors if output.name == "output0"] or file.tensors[:1]
    yield from _head(named[0], file, classes) if named else ()


def _letterbox() -> Iterator[Finding]:
    yield Fact("input.resize", "letterbox", "Ultralytics fits the image into the size")
    yield Fact("input.resize_like", "opencv", "Ultralytics resizes with OpenCV")
    yield Fact("input.letterbox_fill", 114, "Ultralytics' own")


def _class_map(file: ModelFile) -> Iterator[Finding]:
    """Class numbers [N, h, w], where the graph ends with an argmax, or logits [N, C, h, w]."""
    yield Fact("task", "segmentation", "metadata task is semantic")
    yield from _letterbox()
    output = file.tensors[0]
    if len(output.sizes) == 3:
        yield Fact("output.kind", "classes", f"output {output.name} is {output.text}: the graph took the argmax")
    else:
        yield Fact("output.kind", "logits", f"output {output.name} is {output.text}: of Ultralytics without an argmax")
        if len(output.sizes) == 4 and output.sizes[1] != 1:
            yield Fact("output.multilabel", False, "Ultralytics answers one class a pixel")


def _suppresses(found: Mapping[str, str]) -> str | None:
    """The metadata that says that the graph ends with boxes, score and class; None if none does."""
    arguments = read_literal(found.get("args", ""))
    stated = {"end2end": read_literal(found.get("end2end", "")), **(arguments if isinstance(arguments, dict) else {})}
    if stated.get("end2end") is True:
        return "metadata end2end"
    return "metadata args has nms" if stated.get("nms") is True else None


def _has_six_columns(output: TensorInfo, classes: int) -> str | None:
    """What says that a YOLOv10, whose metadata may have no word of it, gives boxes, score and class."""
    shape = output.sizes
    has = len(shape) == 3 and shape[2] == 6 and shape[1] not in (None, 4 + classes)
    return f"output {output.name} is {output.text}, as of YOLOv10" if has else None


def _head(output: TensorInfo, file: ModelFile, classes: int) -> Iterator[Finding]:
    shape = output.sizes
    suppresses = _suppresses(file.metadata) or _has_six_columns(output, classes)
    axis, columns = (2, 6) if suppresses else (1, 4 + classes)
    if len(shape) != 3 or shape[axis] not in (None, columns):
        expected = "[N, M, 6]" if suppresses else f"[N, {columns}, M]"
        yield Refusal(
            "output.head",
            f"output {output.name} is {output.text}; a YOLO detector of {classes} classes"
            f"{f' with {suppresses}' if suppresses else ''} gives {expected}, so its meaning is not known",
        )
    elif suppresses:
        yield from _named("yolov10", output, file, f"{suppresses}: the graph leaves out duplicates")
    else:
        yield from _named("yolov8", output, file, f"YOLO without nms or end2end: {output.text}")


def _named(head: str, output: TensorInfo, file: ModelFile, source: str) -> Iterator[Finding]:
    yield Fact("output.head", head, source)
    if len(file.tensors) > 1:
        yield Fact("output.rows", output.name, "the first output")
    yield Fact("output.min_score", MIN_SCORE, "conf of Ultralytics' predictor")


def read_yolov5(evidence: Evidence) -> Iterator[Finding]:
    """Facts of the older YOLOv5 and v7, whose metadata has `stride` and `names` only: rows with an objectness."""
    found, outputs = evidence.file.metadata, evidence.file.tensors
    names = numbered(read_literal(found.get("names", "")))
    if "task" in found or "stride" not in found or not names or not outputs:
        return
    yield from label_facts(names, f"metadata names, {len(names)} of them")
    output = outputs[0]
    if len(output.sizes) != 3:
        return
    if output.sizes[2] not in (None, 5 + len(names)):
        yield Refusal(
            "task",
            f"output {output.name} is {output.text}; YOLOv5 with {len(names)} classes gives [N, M, {5 + len(names)}] "
            "boxes; with more columns it gives masks, which are not served yet",
        )
        return
    yield Fact("task", "detection", f"metadata stride and names; output {output.name} is {output.text}")
    yield from _pixels(found)
    yield Fact("input.resize", "letterbox", "YOLOv5 fits the image into the size")
    yield Fact("input.resize_like", "opencv", "YOLOv5 resizes with OpenCV")
    yield Fact("input.letterbox_fill", 114, "YOLOv5's own")
    yield from _named("yolov5", output, evidence.file, f"YOLOv5: output {output.name} is {output.text}")
