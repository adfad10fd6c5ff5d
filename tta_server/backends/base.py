"""The backend seam: what runs a batch."""

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
    """What a model file says of itself: its one input and its outputs by name; None is a free axis."""

    input: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    outputs: Mapping[str, tuple[int | None, ...]]


class Backend(Protocol):
    signature: Signature

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Runs a batch; outputs have its leading size, in the same order. Blocking, on the calling slot's thread.

        Raises BackendFailed; soon after `abort` is requested, too.
        """

    def close(self) -> None: ...
