"""Infer requests and responses as gRPC messages."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tta_server.api.oip.semantics import InferCommand, InferRequest, build_response, reject_unsupported
from tta_server.api.oip.tensors import MAX_LISTED_VALUES, InputTensor, read_shape
from tta_server.errors import InvalidInput, Overloaded, TTAError
from tta_server.serving.answer import Answer

FINAL_RESPONSE = "triton_final_response"

MAX_TENSORS = 64

Parameter = bool | int | float | str


def read_request(message: Any) -> InferRequest:
    """Raises InvalidInput."""
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise InvalidInput(f"a request takes one input and at most {MAX_TENSORS} outputs")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs; send one for each"
        )
    inputs = []
    for index, tensor in enumerate(message.inputs):
        reject_unsupported(tensor.parameters, tensor.name)
        shape = read_shape(list(tensor.shape[:9]), tensor.name)
        data = raw[index] if raw else _contents(tensor)
        inputs.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    for output in message.outputs:
        reject_unsupported(output.parameters, output.name)
    outputs = [output.name for output in message.outputs]
    parameters = {key: _value(parameter) for key, parameter in message.parameters.items()}
    return InferRequest(message.model_name, message.model_version, inputs, outputs, parameters, message.id)


def _contents(tensor: Any) -> list[Any]:
    """The elements of a tensor whose contents are typed, not raw."""
    contents = tensor.contents
    values = contents.bytes_contents if tensor.datatype == "BYTES" else contents.uint_contents or contents.int_contents
    if len(values) > MAX_LISTED_VALUES:
        raise InvalidInput(
            f"the contents have {len(values)} values; at most {MAX_LISTED_VALUES} are allowed: send raw_input_contents"
        )
    return list(values)


def _value(parameter: Any) -> Parameter:
    choice = parameter.WhichOneof("parameter_choice")
    value: Parameter = getattr(parameter, choice) if choice else ""
    return value


def write_response(command: InferCommand, request: Any, answers: Sequence[Answer], more: dict[str, Parameter]) -> Any:
    """A ModelInferResponse with all tensors as raw bytes; `more` are parameters besides the receipt's."""
    tensors, parameters = build_response(command, answers)
    response = pb.ModelInferResponse(model_name=command.model.name, model_version=command.model.version, id=request.id)
    _set(response.parameters, parameters | more)
    for tensor in tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response


def write_failure(request: Any, error: TTAError) -> Any:
    """The final response to a failed request of a stream; parameters hold the error's code, and when to retry."""
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    parameters: dict[str, Parameter] = {FINAL_RESPONSE: True, "tta_code": error.code.value}
    if isinstance(error, Overloaded):
        parameters["tta_retry_after_ms"] = ceil(error.retry_after * 1e3)
    _set(response.parameters, parameters)
    return pb.ModelStreamInferResponse(error_message=str(error), infer_response=response)


def _set(target: Any, parameters: Mapping[str, Parameter]) -> None:
    for key, value in parameters.items():
        setattr(target[key], PARAMETER_FIELDS[type(value)], value)


PARAMETER_FIELDS: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}
