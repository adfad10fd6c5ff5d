"""The graphs around a model, ready to run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Tensor
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.front import front, front_inputs
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.rows import FrontRow, front_table, stack_canvases
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.views.geometry import Size


class ViewGraphs:
    """Makes a model's inputs from canvases. Thread-safe."""

    def __init__(self, preprocessing: Preprocessing, threads: int = 1) -> None:
        """Make the graphs; raise ConfigError without the `onnx` package. A run takes `threads` threads."""
        require_onnx()
        self._channels = preprocessing.channels
        self._front = GraphSession(front(preprocessing), threads)

    def make_input(self, canvases: Sequence[NDArray[np.uint8]], rows: Sequence[FrontRow], tensor: Size) -> Tensor:
        """Return the model's input of size `tensor` for views of these canvases (C, H, W), one row a view."""
        table = front_table(rows, self._channels)
        return self._front.run(front_inputs(stack_canvases(canvases), table, tensor))["input"]
