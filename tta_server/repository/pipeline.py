"""The interface of what makes views, runs the model and sums its outputs, all where the model runs."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs
from tta_server.backends.cancel import Abort
from tta_server.compiled.rows import FrontRow
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size

T = TypeVar("T")
Planes = Sequence[NDArray[np.uint8]]
"""Canvases (C, H, W)."""
Rows = Sequence[FrontRow | None]
"""The views of a batch, one a row; None for a row of zeros."""


class BatchOutputs(Protocol):
    """The model's outputs for a batch, where the model ran; valid until the next batch."""

    def shape(self, output: str) -> tuple[int, ...]:
        """Of one output, all rows."""

    def fetch(self) -> Outputs:
        """All outputs, all rows, in this process's memory."""

    def sum_vectors(
        self, spec: SumSpec, rows: Sequence[int], weight: NDArray[np.float64], owner: NDArray[np.intp]
    ) -> Outputs:
        """`total` (N, C), `weights` (N, 1 or C) and `sound` (n,) of these n rows, vectors of C numbers.

        `weight` (n, 1 or C) are the weights of the views, `owner` (n,) the number of each one's image.
        """

    def sum_maps(
        self, spec: SumSpec, rows: Sequence[int], table: NDArray[np.float32], owner: NDArray[np.intp], cells: Size
    ) -> Outputs:
        """`total` (N, C, H, W), `weights` (N, H, W) and `sound` (n,) of these n rows, maps (C, h, w).

        `table` is that of `map_rows` for these rows; W and H are the columns and rows in `cells`. Of heat maps also
        `peaks` (n, C, PEAK_COLUMNS).
        """


class Pipeline(Protocol):
    """From canvases to outputs."""

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function on the thread on which `infer` is called and its outputs are read."""

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Any:
        """Collects what `infer` takes for views of size `tensor` of these canvases; on any thread."""

    def infer(self, prepared: Any, abort: Abort | None = None) -> BatchOutputs:
        """Makes the views and runs the model, in a `call`. Raises as `Backend.infer`."""
