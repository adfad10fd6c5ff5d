"""Shapes of a model's outputs: what the model file states, held against what a task needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from tta_server.errors import ConfigError

Outputs = Mapping[str, NDArray[Any]]
"""A batch's outputs by name; the first axis counts the views."""

Shapes = Mapping[str, tuple[int | None, ...]]
"""Output name -> shape that the model file states; None is a free axis."""


def output_name(asked: str | None, key: str, outputs: Shapes) -> str:
    """The output that `output.<key>` in tta.yaml names, or the only one if it names none; raises ConfigError."""
    if asked is None and len(outputs) == 1:
        return next(iter(outputs))
    if asked is None or asked not in outputs:
        raise ConfigError(f"output.{key} is {asked!r}; the model file has {', '.join(outputs)}")
    return asked


def fits(shape: Sequence[int | None], expected: Sequence[int | str | None]) -> bool:
    """Whether a shape, None for free axes, may be the expected one, in which texts and None stand for any size."""
    return len(shape) == len(expected) and all(
        found is None or not isinstance(size, int) or found == size for found, size in zip(shape, expected, strict=True)
    )


def format_shape(shape: Sequence[int | str | None]) -> str:
    """A shape as messages give it: [N, 3, any]."""
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def check_shape(task: str, name: str, found: Sequence[int | None], expected: Sequence[int | str]) -> None:
    """Raises ConfigError that says what was found and what is expected."""
    if not fits(found, expected):
        raise ConfigError(
            f"{task} needs an output {name} of shape {format_shape(expected)}; the model gives {format_shape(found)}"
        )


def vector_shapes(size: int | str) -> list[list[int | str]]:
    """Shapes of vectors: [N, size], also with the axes of a pooled map, channels first or last."""
    return [["N", size], ["N", size, 1, 1], ["N", 1, 1, size]]


def check_vectors(task: str, name: str, found: Sequence[int | None], size: int | str) -> None:
    """As `check_shape`, for vectors."""
    if not any(fits(found, shape) for shape in vector_shapes(size)):
        check_shape(task, name, found, ["N", size])
