"""Rules of nodes that work on values, images or axes: where they leave the images. See rules.py."""

from collections.abc import Callable

from tta_server.onboarding.batch.step import Rows, Rule, Step


def elementwise(step: Step) -> Rows:
    """Values of the same place, with axes broadcast."""
    rank = len(step.made)
    places = set()
    for name in step.inputs:
        if rows := step.rows(name):
            places.add(rows.moved(rows.axis + rank - len(step.shape(name))))
    if len(places) != 1:
        step.refuse("joins tensors that hold images along different axes")
    (place,) = places
    for name in step.inputs:
        own = place.axis - rank + len(step.shape(name))
        if not step.rows(name) and own >= 0 and step.shape(name)[own] != 1:
            step.refuse(f"has {name}, of {step.shape(name)[own]} entries along the images' axis")
    return place


def by_image(step: Step) -> Rows:
    """Convolutions, pools and other nodes that take each image of the first axis by itself."""
    rows = step.alone()
    if rows.axis:
        step.refuse("takes images along its first axis, and they lie along another")
    if len(step.node.output) > 1:
        step.refuse("gives the places of values, which depend on the images before one")
    return rows


def batch_normalization(step: Step) -> Rows:
    if step.attribute("training_mode", 0):
        step.refuse("is in training mode, in which images share mean and variance")
    return by_image(step)


def keeps(axis: Callable[[Step, int], int]) -> Rule:
    """The rule of nodes that work along one axis and keep all."""

    def rule(step: Step) -> Rows:
        rows = step.alone()
        if axis(step, len(step.shape(step.input(0)))) == rows.axis:
            step.refuse("works along the images' axis")
        return rows

    return rule


def axis_of(default: int) -> Callable[[Step, int], int]:
    return lambda step, rank: int(step.attribute("axis", default)) % rank


def softmax(step: Step) -> Rows:
    """Before opset 13 over all axes from one on."""
    rows, rank = step.alone(), len(step.made)
    if step.known.opset >= 13:
        mixes = step.attribute("axis", -1) % rank == rows.axis
    else:
        mixes = step.attribute("axis", 1) % rank <= rows.axis
    if mixes:
        step.refuse("works along the images' axis")
    return rows


def layer_normalization(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.shape(step.input(0)))
    if step.attribute("axis", -1) % rank <= rows.axis:
        step.refuse("normalises over the images' axis")
    return rows


def reduce(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.shape(step.input(0)))
    if step.node.op_type in ("ArgMax", "ArgMin"):
        axes: list[int] | None = [step.attribute("axis", 0) % rank]
    else:
        axes = step.axes(rank)
    if not axes and step.attribute("noop_with_empty_axes", 0):
        return rows
    if not axes or rows.axis in axes:
        step.refuse("sums up over the images' axis")
    removed = 0 if step.attribute("keepdims", 1) else sum(axis < rows.axis for axis in axes)
    return rows.moved(rows.axis - removed)


def cumsum(step: Step) -> Rows:
    rows, axis = step.alone(), step.constant(step.input(1))
    if axis is None or axis[0] % len(step.made) == rows.axis:
        step.refuse("works along the images' axis")
    return rows
