"""Views made on a CUDA device by one kernel, into the memory from which PyTorch runs the model."""

from collections.abc import Callable

from tta_server.backends.cancel import Abort
from tta_server.backends.graphs import GraphSession
from tta_server.backends.torch.backend import TorchBackend
from tta_server.compiled.graph import require_onnx
from tta_server.repository.graphs import HostOutputs, Tails
from tta_server.repository.pipeline import BatchOutputs, Planes, Rows, T
from tta_server.repository.staging import Staged, Staging
from tta_server.views.geometry import Size


class TorchPipeline:
    """From canvases to outputs; outputs are summed on the CPU. See `Pipeline`."""

    def __init__(self, backend: TorchBackend, staging: Staging) -> None:
        """Raise ConfigError without the `onnx` package, which writes the graphs that sum outputs.

        The memory of `staging` is that of the backend's device, with the stream on which torch runs.
        """
        require_onnx()
        self._backend = backend
        self._staging = staging
        self._tails = Tails(lambda key: GraphSession(key.to_bytes()))
        backend.on_close.append(staging.close)

    def call(self, function: Callable[[], T]) -> T:
        """Call it here; see `Pipeline.call`."""
        return function()

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Staged:
        """Write the table and the canvases to memory that the device copies from."""
        return self._staging.prepare(planes, rows, tensor)

    def infer(self, prepared: Staged, abort: Abort | None = None) -> BatchOutputs:
        """Copy, make the views, run the model, and wait for its outputs."""

        def fill(address: int) -> None:
            self._staging.make(prepared, address)

        outputs = self._backend.infer_filled(self._staging.input_shape(prepared), fill, abort)
        return HostOutputs(outputs, self._tails)
