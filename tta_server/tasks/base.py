"""The task seam: what a model's outputs mean, how they are moved back, merged and shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Placement
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Weight

Floats = NDArray[np.float32]
Outputs = Mapping[str, NDArray[Any]]
"""A model's outputs by name; leading size 1 a view."""
Shapes = Mapping[str, tuple[int | None, ...]]
"""What a model file states of its outputs; None is a free axis."""

STRICT = {"extra": "forbid"}
"""For the dataclasses that `output:` in tta.yaml is read into: unknown keys are mistakes."""


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """One image as its predictions are merged: its own size, the plain view's placement, and in how many tiles each
    view looks at it."""

    image: Size
    plain: Placement
    tiles: int = 1

    @property
    def to_image(self) -> Affine:
        """Plain view's frame -> the image's own pixels."""
        canvas = self.plain.canvas
        stretch = Affine.stretch(self.image.width / canvas.width, self.image.height / canvas.height)
        return self.plain.to_canvas.then(stretch)


class ResponseFormat(Enum):
    """What is made of a result by the step that makes the answer."""

    JSON = "json"
    PNG = "png"
    ARRAYS = "arrays"
    """Nothing: the answer keeps the typed result, and renders it when a rendering is first read."""


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """What a request wants of its answer beyond the merged prediction.

    `include` names parts that are left out by default, `top_k` is how many classes the JSON lists. If `tensors` has
    names, the answer is these tensors, whatever `format` says.
    """

    include: frozenset[str] = frozenset()
    top_k: int = 5
    tensors: frozenset[str] = frozenset()
    format: ResponseFormat = ResponseFormat.JSON


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of one image's answer: `shape` has None for sizes that images differ in.

    `padding` fills up the first axis where images of one request have different numbers of things. `per_pixel`: those
    images must have one size. One that is not `usual` is left out unless it is asked for by name.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    padding: float | str | None = None
    per_pixel: bool = False
    usual: bool = True


Tensors = dict[str, NDArray[Any]]
"""Texts are arrays of objects."""


P = TypeVar("P")


Remaining = Sequence[tuple[Placement, Weight]]
"""The views that may still be merged."""


class Accumulator(Protocol[P]):
    """Merges predictions one at a time; the order matters only in the last bits."""

    def add(self, prediction: P, weight: Weight) -> None:
        """A prediction that it raises for is not merged: what was merged before stays as it was."""

    def result(self) -> P:
        """What the predictions so far come to, in memory of its own; valid after any number >= 1."""

    def margin(self) -> float:
        """Lead of the top class over the second in merged probability; 0 where the task has no one top class."""

    def undecided(self, remaining: Remaining) -> float:
        """Share of the answer (its one label, or its pixels) whose top class those views could change. For bounded
        merges."""

    def standard_error(self) -> float:
        """Of the mean over views, in the answer's unit, the largest of a vector's; infinite where there is none."""


class NoEvidence:
    """What an accumulator says to the stop rules that its task does not know."""

    def margin(self) -> float:
        return 0.0

    def undecided(self, remaining: Remaining) -> float:
        return 1.0

    def standard_error(self) -> float:
        return inf


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a task answers, as arrays; each task has a type of its own, in its `results` module.

    `uncertainty` says how the views differ, as the receipt has it; empty unless the request includes it. Fields named
    `view_...` hold each view's own part, in the order of the receipt's views; empty unless the request includes
    something that is made of them.
    """

    uncertainty: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol[P]):
    """One kind of model. P is one view's prediction, moved back into the plain view's frame.

    Made of the labels, an `Output`, and the shapes that the model file states; raises ConfigError where they don't fit
    one another.
    """

    name: str
    Output: type[Any]
    sees_crops: bool
    """Whether a part of the image is enough: False refuses a centre crop, outside of which nothing would be seen."""
    can_tile: bool
    """Whether an image may be looked at in parts."""
    labels_are: str
    """What a label names; empty for a task without labels."""

    labels: Sequence[str]
    merges: Sequence[str]
    stops: Sequence[str]
    includes: Sequence[str]
    has_picture: bool
    tensor_specs: Sequence[TensorSpec]

    def __init__(self, labels: Sequence[str], output: Any, outputs: Shapes) -> None: ...

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError, saying what was found and expected, unless a run's outputs are what was stated; `tensor`
        is the size of its input."""

    def decode(self, outputs: Outputs, row: int, placement: Placement, scene: ImageFrame) -> P:
        """Row `row` of a batch's outputs as a prediction; NaN and infinities stay."""

    def is_sound(self, prediction: P) -> bool:
        """False where it holds NaN or +inf; -inf, a class ruled out, is fine."""

    def accumulator(self, merge: str, wanted: ResponseSpec, scene: ImageFrame) -> Accumulator[P]: ...

    def merged_bytes(self, plain: Placement, wanted: ResponseSpec) -> int:
        """Memory that merging takes for an image."""

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        """Raises InvalidInput where nothing is certain before the last view."""

    def check_mean(self, merge: str) -> None:
        """Raises InvalidInput where the standard error of a mean says nothing of the answer."""

    def confidence(self, merged: P) -> float | None:
        """How sure an answer is of itself, in [0, 1]; None for a task whose outputs don't say."""

    def keeps_view_results(self, wanted: ResponseSpec) -> bool:
        """Whether the result is made of each view's own result too, which is then kept until the answer."""

    def view_result(self, prediction: P) -> Any:
        """What is kept of one view where `keeps_view_results`."""

    def view_result_bytes(self, plain: Placement) -> int:
        """Memory that one view's result takes, at most."""

    def result(self, merged: P, views: Sequence[Any], scene: ImageFrame, wanted: ResponseSpec) -> Result:
        """The merged prediction, and the views' own results, as arrays in the image's frame."""


def output_name(asked: str | None, key: str, outputs: Shapes) -> str:
    """The model's output of that name, its only one where none is asked for; raises ConfigError."""
    if asked is None and len(outputs) == 1:
        return next(iter(outputs))
    if asked is None or asked not in outputs:
        raise ConfigError(f"output.{key} is {asked!r}; the model file has {', '.join(outputs)}")
    return asked


def fits(shape: Sequence[int | None], wanted: Sequence[int | str | None]) -> bool:
    """Whether a shape, None for free axes, may be the wanted one, in which texts and None stand for any size."""
    return len(shape) == len(wanted) and all(
        found is None or not isinstance(size, int) or found == size for found, size in zip(shape, wanted, strict=True)
    )


def shown(shape: Sequence[int | str | None]) -> str:
    """A shape as messages give it: [N, 3, any]."""
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def check_shape(task: str, name: str, found: Sequence[int | None], wanted: Sequence[int | str]) -> None:
    """Raises ConfigError that says what was found and expected."""
    if not fits(found, wanted):
        raise ConfigError(f"{task} needs an output {name} of shape {shown(wanted)}; the model gives {shown(found)}")


class TaskDefaults:
    """What most tasks say: no bounds, no mean of values, no pictures, little memory."""

    can_tile = False
    has_picture = False

    def merged_bytes(self, plain: Placement, wanted: ResponseSpec) -> int:
        return 0

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        raise InvalidInput(f"merge {merge} has no bound that could make an answer certain")

    def check_mean(self, merge: str) -> None:
        raise InvalidInput(f"merge {merge} is no mean of values that would have a standard error")

    def view_result_bytes(self, plain: Placement) -> int:
        return 0


def texts(values: Sequence[str]) -> NDArray[np.object_]:
    """As a tensor."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def one_weight(weight: Weight, index: int = 0) -> float:
    """A view's weight; of weights by label the one at `index`."""
    return weight[index] if isinstance(weight, tuple) else weight
