"""The interface of a backend, which runs batches of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.cancel import Abort

Tensor = NDArray[Any]
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    """Input name, shape and dtype, and output shapes by name, as the model file declares them; None is a free axis."""

    input: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    outputs: Mapping[str, tuple[int | None, ...]]


class Backend(Protocol):
    """A loaded model. `infer` may run on several threads at once."""

    signature: Signature

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch on the calling thread; outputs have the batch's leading size, in the same order.

        Raises BackendFailed, also soon after `abort` is requested.
        """

    def close(self) -> None:
        """Release the model; no run may be active."""
