"""Triton's python backend as a backend for ONNX files: runs `<version>/model.onnx` of each model with onnxruntime.

It is copied into Triton's folder of backends and imported there, not here.
"""

import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [each.name for each in self.session.get_inputs()]

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        feed = {name: utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        names = list(request.requested_output_names())
        try:
            values = self.session.run(names, feed)
        except Exception as error:  # noqa: BLE001 - whatever the model raises
            return utils.InferenceResponse(error=utils.TritonError(str(error)))
        return utils.InferenceResponse(
            [utils.Tensor(name, np.ascontiguousarray(value)) for name, value in zip(names, values, strict=True)]
        )
