"""Rules of nodes that give tensors another shape, or parts of them. See rules.py."""

from tta_server.onboarding.batch.edits import ExpandInput, SetShape, SetSizes, Watch
from tta_server.onboarding.batch.step import Rows, Shape, Step, before

LAST = 2**31 - 1
"""An end of a slice that is beyond any axis."""


def resize(step: Step) -> Rows:
    rows, sizes, scales = step.alone(), step.input(3), step.input(2) or step.input(1)
    if rows.axis:
        step.refuse("takes images along its first axis, and they lie along another")
    if step.node.op_type == "Upsample" and not step.input(1):
        found = step.attribute("scales")
        if found is None or found[0] != 1:
            step.refuse("enlarges the images' axis")
        return rows
    if step.attribute("axes") is not None:
        if 0 in (step.axes(len(step.made), 9) or ()):
            step.refuse("resizes the images' axis")
    elif sizes:
        if step.constant(sizes) is None:
            step.edits.append(Watch())
        else:
            step.edits.append(SetSizes(3))
    elif scales:
        _check_scales(step, scales)
    return rows


def _check_scales(step: Step, scales: str) -> None:
    if scales in step.known.sizes:
        step.edits.append(Watch())
    elif scales not in step.known.values or step.known.values[scales].ravel()[:1] != 1:
        step.refuse("enlarges the images' axis")


def reshape(step: Step) -> Rows:
    """As many entries are before an image as were, and as many of it together; several axes may allow that."""
    rows, made = step.alone(), step.made
    entries = before(step.shape(step.input(0)), rows.axis) * rows.outer
    places = [place for axis in range(len(made)) if (place := _place(made, axis, entries))]
    if not places:
        step.refuse("spreads an image over the entries of others")
    places.sort(key=lambda place: (place.axis != rows.axis or place.outer != rows.outer, place.outer > 1, place.axis))
    step.choices = len(places)
    place = places[step.choice]
    if step.node.op_type == "Reshape":
        _set_shape(step, rows, place)
    return place


def _place(made: Shape, axis: int, entries: int) -> Rows | None:
    """The images along an axis of a shape, with `entries` before each."""
    outer, rest = divmod(entries, max(1, before(made, axis)))
    if rest or not outer or made[axis] % outer:
        return None
    return Rows(axis, made[axis] // outer, outer)


def _set_shape(step: Step, rows: Rows, place: Rows) -> None:
    """Note the shape that a Reshape must have for any number of images."""
    given = step.attribute("shape") or step.constant(step.input(1))
    if given is None:
        step.edits.append(Watch())
        return
    shape, copies = list(given), not step.attribute("allowzero", 0)
    if not copies and 0 in shape:
        step.refuse("has a shape with 0")
    is_same = place == rows
    if shape[place.axis] == -1 or (shape[place.axis] == 0 and is_same):
        return
    if rows.axis != place.axis and rows.axis < len(shape) and shape[rows.axis] == 0:
        shape[rows.axis] = step.made[rows.axis]
    rest = [size for axis, size in enumerate(shape) if axis != place.axis]
    if -1 not in rest:
        shape[place.axis] = -1
    elif is_same and copies:
        shape[place.axis] = 0
    elif step.known.is_fixed:
        shape = [-1 if axis == place.axis else size for axis, size in enumerate(step.made)]
    else:
        step.refuse(f"has the shape {list(given)}, which can't be stated for several images")
    step.edits.append(SetShape(shape))


def squeeze(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.shape(step.input(0)))
    axes = step.axes(rank)
    if axes is None or rows.axis in axes:
        step.refuse("removes the images' axis")
    return rows.moved(rows.axis - sum(axis < rows.axis for axis in axes))


def unsqueeze(step: Step) -> Rows:
    rows, axes = step.alone(), sorted(step.axes(len(step.made)) or ())
    axis = rows.axis
    for each in axes:
        axis += each <= axis
    return rows.moved(axis)


def transpose(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.made)
    order = step.attribute("perm") or list(reversed(range(rank)))
    return rows.moved(list(order).index(rows.axis))


def concat(step: Step) -> Rows:
    axis = step.attribute("axis", 1) % len(step.made)
    places = {rows for name in step.inputs if (rows := step.rows(name))}
    if len(places) != 1:
        step.refuse("joins tensors that hold images along different axes")
    (place,) = places
    if place.axis == axis:
        step.refuse("appends along the images' axis")
    for index, name in enumerate(step.node.input):
        if not step.rows(name):
            _expand(step, index, place)
    return place


def _expand(step: Step, index: int, place: Rows) -> None:
    """Note that a tensor that is the same for all images must be there for each."""
    name = step.node.input[index]
    if name in step.known.sizes:
        step.edits.append(Watch())
    elif step.shape(name)[place.axis] == place.times * place.outer == 1:
        like = next(each for each in step.inputs if step.rows(each))
        step.edits.append(ExpandInput(index, place.axis, len(step.shape(name)), like))
    else:
        step.refuse(f"has {name}, of {step.shape(name)[place.axis]} entries along the images' axis")


def slices(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.shape(step.input(0)))
    starts, ends = (step.attribute(key) or step.constant(step.input(i)) for i, key in ((1, "starts"), (2, "ends")))
    axes = step.axes(rank, 3)
    if axes is None:
        axes = list(range(len(starts or ends or [0] * rank)))
    if rows.axis not in axes:
        if starts is None or ends is None:
            step.edits.append(Watch())
        return rows
    steps = step.constant(step.input(4)) if step.input(4) else [1] * len(axes)
    at = axes.index(rows.axis)
    if None in (starts, ends, steps) or (starts[at], steps[at]) != (0, 1) or ends[at] < LAST:  # type: ignore[index]
        step.refuse("takes a part of the images' axis")
    return rows


def gather(step: Step) -> Rows:
    data, index = step.input(0), step.input(1)
    axis = step.attribute("axis", 0) % len(step.shape(data))
    rows, chosen = step.rows(data), step.rows(index)
    if rows and chosen:
        step.refuse("takes entries of one image by numbers that another may have given")
    if chosen:
        return chosen.moved(axis + chosen.axis)
    if rows is None or rows.axis == axis:
        step.refuse("takes single images")
    added = len(step.shape(index)) - 1 if axis < rows.axis else 0
    return rows.moved(rows.axis + added)


def gather_elements(step: Step) -> Rows:
    rows, axis = step.first, step.attribute("axis", 0) % len(step.made)
    if step.rows(step.input(1)) != rows or rows.axis == axis:
        step.refuse("takes entries along the images' axis, or the same ones of all images")
    return rows


def expand(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.made)
    place = rows.moved(rows.axis + rank - len(step.shape(step.input(0))))
    sizes = step.constant(step.input(1))
    if sizes is None:
        step.edits.append(Watch())
    elif place.axis - rank + len(sizes) >= 0 and sizes[place.axis - rank + len(sizes)] != 1:
        step.refuse("states the number of entries along the images' axis")
    return place


def pad(step: Step) -> Rows:
    rows, rank = step.alone(), len(step.made)
    pads = step.attribute("pads") or step.constant(step.input(1))
    axes = step.axes(rank, 3) or list(range(rank))
    if pads is None:
        step.edits.append(Watch())
    elif rows.axis in axes and any(pads[axes.index(rows.axis) :: len(axes)]):
        step.refuse("pads the images' axis")
    return rows


def tile(step: Step) -> Rows:
    rows, repeats = step.alone(), step.constant(step.input(1))
    if repeats is None or repeats[rows.axis] != 1:
        step.refuse("repeats the images' axis")
    return rows


def grid_sample(step: Step) -> Rows:
    rows, grid = step.first, step.rows(step.input(1))
    if rows.axis or (grid and grid != rows):
        step.refuse("takes images along its first axis, and they lie along another")
    if grid is None:
        _expand(step, 1, rows)
    return rows
