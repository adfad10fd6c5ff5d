"""One image's part of a detector's outputs for a batch, by key of `output:`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import BackendFailed
from tta_server.tasks.boxes.heads import Joined
from tta_server.tasks.boxes.output import BoxesOutput

Parts = Mapping[str, NDArray[Any]]


def image_part(output: BoxesOutput, found: Parts, row: int) -> Parts:
    """The arrays of one image of a batch, (M, ...) each, without rows that pad, where the model says which these are.

    Raises BackendFailed for counts that the rows contradict, and for several lists where one should hold all rows.
    """
    joined = output.shape.joined
    if joined is Joined.BY_NUMBER:
        return {"rows": _numbered(found["rows"], row)}
    if joined is Joined.BY_COUNTS:
        before, count = _count(found["counts"][:row]), _count(found["counts"][row])
        _check_counts(before + count, len(found["rows"]))
        return {"rows": found["rows"][before : before + count]}
    own = {key: values[row] if _has_batch(output, key, values) else values for key, values in found.items()}
    if "counts" not in own:
        return own
    count = _count(own.pop("counts"))
    _check_counts(count, len(next(iter(own.values()))))
    return {key: values[:count] for key, values in own.items()}


def batch_part(output: BoxesOutput, found: Parts, row: int) -> Parts:
    """The same as outputs of a batch of one, with the rows that pad unless they are in no image's part."""
    joined = output.shape.joined
    if joined is None:
        return {key: values[row : row + 1] for key, values in found.items()}
    rows = image_part(output, found, row)["rows"]
    if joined is Joined.BY_COUNTS:
        return {"rows": rows, "counts": found["counts"][row : row + 1]}
    rows[:, 0] = 0  # they are a copy
    return {"rows": rows[None, None]}


def _has_batch(output: BoxesOutput, key: str, values: NDArray[Any]) -> bool:
    """Whether there is a batch axis; outputs without it are of one image."""
    return output.shape.is_batched or values.ndim > (2 if key == "boxes" else 1)


def _numbered(values: NDArray[Any], row: int) -> NDArray[Any]:
    """The rows of an image by its number, up to a row of number -1, of values (1, 1, M, columns).

    One whose number is NaN is part of each image, since its image is unknown. Raises BackendFailed for several
    lists, as of a batch that was run in parts: each list begins with image 0.
    """
    if len(values) != 1:
        raise BackendFailed(f"the model gives {len(values)} lists of boxes for a batch, where one holds all")
    rows: NDArray[Any] = values[0, 0]
    ends = np.flatnonzero(rows[:, 0] == -1)
    rows = rows[: ends[0]] if len(ends) else rows
    own: NDArray[Any] = rows[(np.rint(rows[:, 0]) == row) | np.isnan(rows[:, 0])]
    return own


def _count(values: NDArray[Any]) -> int:
    total = values.astype(np.float64).sum()
    if not (np.isfinite(total) and (values >= 0).all()):
        raise BackendFailed("the model's numbers of boxes are under 0 or no numbers")
    return int(total)


def _check_counts(count: int, rows: int) -> None:
    if count > rows:
        raise BackendFailed(f"the model says that it found {count} boxes, but gives {rows}")
