"""The interface of a backend, which runs batches of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.cancel import Abort
from tta_server.backends.inputs import Frame, InputNames, OtherInput

Tensor = NDArray[Any]
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    """Input name, shape and dtype, and output shapes by name, as the model file declares them; None is a free axis.

    `outputs` are tensors. `others` has the types of outputs that are not, by name; a backend does not run them.
    `other_inputs` are those beside the image, by name.
    """

    input: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    outputs: Mapping[str, tuple[int | None, ...]]
    others: Mapping[str, str] = field(default_factory=dict)
    other_inputs: Mapping[str, OtherInput] = field(default_factory=dict)

    @property
    def takes_mask(self) -> bool:
        """Whether an input depends on where the image lies in its tensor."""
        return any(one.function == "mask" for one in self.other_inputs.values())

    @property
    def advice(self) -> str:
        """What to do about `others`, empty if there are none."""
        if not self.others:
            return ""
        found = ", ".join(f"output {name} is {kind}, not a tensor" for name, kind in self.others.items())
        if any("map(" in kind for kind in self.others.values()):
            export = "export it with zipmap off (options={id(model): {'zipmap': False}})"
        else:
            export = "export it"
        return f"{found}: {export}, so that it has tensor outputs"


CPU = "cpu"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a backend runs a file.

    `device` is CPU, "cuda:N", or "auto": the first CUDA device, else the CPU. `threads` are those of one run on the
    CPU. On a device: `precision` is "exact" (IEEE float32, or the file's own type), "tf32" or "fp16"; batches have up
    to `max_batch` rows; `memory_mb` limits what the model may take there, None: all that is free. `inputs` names the
    inputs of a file that takes more than an image.
    """

    device: str = CPU
    threads: int = 1
    precision: str = "exact"
    max_batch: int = 64
    memory_mb: int | None = None
    inputs: InputNames = field(default_factory=InputNames)


DEFAULT_OPTIONS = RunOptions()


class Backend(Protocol):
    """A loaded model.

    `device` is CPU, or the name of the device that runs it: models of one device share a pool. On the CPU `infer` may
    run on several threads at once; a device's is called for requests by one thread for each slot, always the same, and
    by others only to measure it. A remote server takes `permits` batches at once, each on any thread: its pool has as
    many slots, whose threads wait for it without keeping a core busy; 0: it is a device. `ladder` has the batch sizes
    that the backend takes, in ascending order: smaller batches are padded with zeros. Empty: any size. `where` says how
    and where the model runs, for people; empty for the usual way on the CPU.
    """

    signature: Signature
    device: str
    ladder: Sequence[int]
    permits: int = 0
    where: str = ""

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch on the calling thread; outputs have the batch's leading size, in the same order.

        Raises BackendFailed, also soon after `abort` is requested; OutOfDeviceMemory if a smaller batch may run;
        DeviceLost if none will.
        """

    def close(self) -> None:
        """Release the model; no run may be active."""


class FramedBackend(Backend, Protocol):
    """A backend that runs models whose signature `takes_mask`."""

    def infer_framed(self, batch: Tensor, frames: Sequence[Frame], abort: Abort | None = None) -> Outputs:
        """The same as `infer`, whose images fill their tensors; `frames` say where those of the first rows lie."""
