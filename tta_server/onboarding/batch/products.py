"""Rules of nodes that multiply tensors. See rules.py."""

from tta_server.onboarding.batch.step import Rows, Step


def matmul(step: Step) -> Rows:
    """Matrices along the last two axes; images are rows of the left one, columns of the right one, or stacked."""
    rank, names = len(step.made), step.inputs[:2]
    left, right = (step.shape(name) for name in names)
    if min(len(left), len(right)) < 2:
        step.refuse("multiplies by a vector")
    places = set()
    for name, shape, summed in ((names[0], left, len(left) - 1), (names[1], right, len(right) - 2)):
        if rows := step.rows(name):
            if rows.axis == summed:
                step.refuse("sums up over the images' axis")
            places.add(rows.moved(rows.axis + rank - len(shape)))
    if len(places) != 1:
        step.refuse("multiplies tensors that hold images along different axes")
    (place,) = places
    both = all(step.rows(name) for name in names)
    if place.axis >= rank - 2 and both:
        step.refuse("multiplies each image by each")
    for name, shape in zip(names, (left, right), strict=True):
        own = place.axis - rank + len(shape)
        if not step.rows(name) and place.axis < rank - 2 and own >= 0 and shape[own] != 1:
            step.refuse(f"has {name}, of {shape[own]} entries along the images' axis")
    return place


def gemm(step: Step) -> Rows:
    rows = step.alone()
    if rows.axis != (1 if step.attribute("transA", 0) else 0):
        step.refuse("sums up over the images' axis")
    added = step.shape(step.input(2)) if step.input(2) else ()
    if len(added) == 2 and added[0] != 1:
        step.refuse("adds a row for each entry along the images' axis")
    return rows.moved(0)


def einsum(step: Step) -> Rows:
    """The images' letter is in the result, and an input without images has not got it."""
    equation = step.attribute("equation").decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = {(term[rows.axis], rows.moved(0)) for term, rows in _terms(step, terms.split(","))}
    if not arrow or "." in equation or len(letters) != 1:
        step.refuse("joins tensors that hold images along different axes")
    ((letter, rows),) = letters
    with_letter = [letter in term for term in terms.split(",")]
    holds = [step.rows(name) is not None for name in step.inputs]
    if letter not in result or with_letter != holds:
        step.refuse("sums up over the images' axis")
    return rows.moved(result.index(letter))


def _terms(step: Step, terms: list[str]) -> list[tuple[str, Rows]]:
    return [(term, rows) for name, term in zip(step.inputs, terms, strict=True) if (rows := step.rows(name))]
