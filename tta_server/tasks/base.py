"""The task seam: reading a model's outputs, merging the predictions of views, and what a task says of itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.imaging.placement import Placement
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.shapes import Outputs, Shapes
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Weight

Floats = NDArray[np.float32]
FORBID_EXTRA = {"extra": "forbid"}
"""For the dataclasses that `output:` in tta.yaml is read into: unknown keys are mistakes."""


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """The frame that predictions of one image are merged in.

    `image` is the image's size, `plain` where the plain view lies, `tiles` how many tiles each view is cut into.
    """

    image: Size
    plain: Placement
    tiles: int = 1

    @property
    def to_image(self) -> Affine:
        """Plain view's frame -> the image's own pixels."""
        canvas = self.plain.canvas
        stretch = Affine.stretch(self.image.width / canvas.width, self.image.height / canvas.height)
        return self.plain.to_canvas.then(stretch)


# ---- what is requested, what is answered ----


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
    names, the answer is these tensors, whatever `format` says. Masks in JSON are PNG (`png`) or COCO's RLE (`rle`).
    """

    include: frozenset[str] = frozenset()
    top_k: int = 5
    tensors: frozenset[str] = frozenset()
    format: ResponseFormat = ResponseFormat.JSON
    masks: str = "png"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of one image's answer; `shape` has None for sizes in which images differ.

    `padding` fills the first axis where images of one request differ in it. `per_pixel` tensors need images of one
    size. A tensor that is not `usual` is left out unless it is requested by name.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    padding: float | str | None = None
    per_pixel: bool = False
    usual: bool = True


Tensors = dict[str, NDArray[Any]]
"""Name -> array; texts are arrays of objects."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a task answers, as arrays; each task has a type of its own.

    `uncertainty` says how the views differ, as the receipt has it; empty unless the request includes it. Fields named
    `view_...` hold each view's own part, in the order of the receipt's views; empty unless the request includes
    something that is made of them.
    """

    uncertainty: Mapping[str, Any] = field(default_factory=dict)


# ---- merging ----

P = TypeVar("P")
"""One view's prediction, moved back into the plain view's frame."""
P_contra = TypeVar("P_contra", contravariant=True)
M = TypeVar("M")
"""What the predictions of several views merge into."""
M_co = TypeVar("M_co", covariant=True)

Remaining = Sequence[tuple[Placement, Weight]]
"""The views that may still be merged."""


class Accumulator(Protocol[P_contra, M_co]):
    """Merges predictions one at a time; their order matters only in the last bits."""

    def add(self, prediction: P_contra, weight: Weight) -> None:
        """If it raises, the prediction is not merged and the earlier ones stay as they were."""

    def result(self) -> M_co:
        """The merge of the predictions so far, at least one, in memory of its own."""

    def margin(self) -> float:
        """Lead of the top class over the second in merged probability; 0 where the task has no one top class."""

    def undecided(self, remaining: Remaining) -> float:
        """Share of the answer that the remaining views could change; for bounded merges.

        The answer is its one label, its labels or its pixels.
        """

    def standard_error(self) -> float:
        """Standard error of the mean over views, in the answer's unit; infinite where there is none.

        Of a vector it is the largest.
        """


class SumsAccumulator(Accumulator[P_contra, M_co], Protocol[P_contra, M_co]):
    """An accumulator of a task that has `sums`; the views may come either way."""

    def add_sums(self, sums: Sums) -> None:
        """Adds several views at once; if it raises, none of them is merged."""


class NoEvidence:
    """An accumulator's answers to the stop rules that its task does not have."""

    def margin(self) -> float:
        return 0.0

    def undecided(self, remaining: Remaining) -> float:
        return 1.0

    def standard_error(self) -> float:
        return inf


# ---- the three parts of a task ----


class Decoder(Protocol[P]):
    """Reads a model's outputs; `reads` has the names of those that it looks at."""

    reads: Sequence[str]
    is_joined: bool
    """Whether an output's first axis does not count the views, since one list has what was found in all of them."""

    def part(self, outputs: Outputs, row: int) -> Outputs:
        """One view's part of the outputs that are read, as those of a batch of one."""

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError, naming found and expected, unless a run's outputs have the shapes that tta.yaml states.

        `tensor` is the size of the model's input.
        """

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        """What is wrong, or likely wrong, in tta.yaml, seen from the outputs of test images; at least one a check."""

    def remarks(self, prediction: P) -> Sequence[Finding]:
        """What an answer's prediction shows to be wrong in tta.yaml. Runs for every view, so it costs next to nothing.

        One that refuses makes the prediction unusable.
        """

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> P:
        """Row `row` of a batch's outputs as a prediction, moved back; NaN and infinities stay."""

    def is_sound(self, prediction: P) -> bool:
        """False where it holds NaN or +inf; -inf, a class ruled out, is fine."""


class Merger(Protocol[P_contra, M]):
    """Merges predictions into a result."""

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> Accumulator[P_contra, M]: ...

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        """How a graph beside the model may sum the views, for `add_sums`; None where each prediction is needed."""

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        """Memory that merging takes for an image."""

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        """Whether the result is made of each view's own result too, which is then kept until the answer."""

    def view_result(self, prediction: P_contra) -> Any:
        """What is kept of one view."""

    def view_result_bytes(self, plain: Placement) -> int:
        """Memory that one view's result takes, at most."""

    def result(self, merged: M, views: Sequence[Any], frame: ImageFrame, spec: ResponseSpec) -> Result:
        """The merged prediction as arrays; `views` are the kept view results, in order, or none."""

    def confidence(self, merged: M) -> float | None:
        """How sure the model is of the answer, in [0, 1]; None where its outputs don't say."""


class Description(Protocol):
    """What a task says of itself and its model."""

    name: str
    Output: type[Any]
    """The dataclass that `output:` in tta.yaml is read into."""
    sees_crops: bool
    """Whether a part of the image is enough. If not, a centre crop is refused: what lies outside is never seen."""
    can_tile: bool
    """Whether a large image may be cut into tiles."""
    labels_are: str
    """What a label names; empty for a task without labels."""

    labels: Sequence[str]
    merges: Sequence[str]
    stops: Sequence[str]
    includes: Sequence[str]
    has_picture: bool
    can_batch: bool
    """Whether a batch may hold several rows."""
    tensor_specs: Sequence[TensorSpec]

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        """Raises InvalidInput where the last view may change any answer of that merge."""

    def check_mean(self, merge: str) -> None:
        """Raises InvalidInput where the merge is not a mean that has a standard error."""


class Task(Decoder[P], Merger[P, M], Description, Protocol[P, M]):
    """One kind of model.

    Made of labels, its `Output`, and the shapes that the model file states; raises ConfigError where they don't fit
    one another.
    """

    def __init__(self, labels: Sequence[str], output: Any, outputs: Shapes) -> None: ...


class TaskDefaults:
    """What holds for most tasks: batches, no tiles, no picture, no bound, no standard error, little memory."""

    can_batch = True
    can_tile = False
    has_picture = False
    is_joined = False
    reads: Sequence[str]

    def part(self, outputs: Outputs, row: int) -> Outputs:
        return {name: outputs[name][row : row + 1] for name in self.reads}

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        return iter(())

    def remarks(self, prediction: Any) -> Sequence[Finding]:
        return ()

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        raise InvalidInput(f"merge {merge} has no bound that could make an answer certain")

    def check_mean(self, merge: str) -> None:
        raise InvalidInput(f"merge {merge} is no mean of values that would have a standard error")

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        return None

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        return 0

    def view_result_bytes(self, plain: Placement) -> int:
        return 0


def texts(values: Sequence[str]) -> NDArray[np.object_]:
    """As a tensor."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array
