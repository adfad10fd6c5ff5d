"""Graphs made here, run by ONNX Runtime on the CPU."""

from collections.abc import Mapping

import onnxruntime as ort

from tta_server.backends.base import Outputs, Tensor


class GraphSession:
    """A graph, loaded from its bytes; threads may run it at the same time, each on its own."""

    def __init__(self, content: bytes, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        if threads > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Run the graph on the calling thread."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
