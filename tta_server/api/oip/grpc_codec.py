"""The protocol's infer request and answer as gRPC messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tta_server.api.oip.semantics import InferCommand, InferRequest, build_response, refuse_foreign
from tta_server.api.oip.tensors import MOST_VALUES, InputTensor, read_shape
from tta_server.errors import InvalidInput, TTAError
from tta_server.serving.answer import Answer

FINAL = "triton_final_response"

MOST_TENSORS = 64

Parameter = bool | int | float | str


def read_request(message: Any) -> InferRequest:
    """Raises InvalidInput."""
    if len(message.inputs) > MOST_TENSORS or len(message.outputs) > MOST_TENSORS:
        raise InvalidInput(f"a request has one input, and up to {MOST_TENSORS} outputs")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs")
    inputs = []
    for index, tensor in enumerate(message.inputs):
        refuse_foreign(tensor.parameters, tensor.name)
        shape = read_shape(list(tensor.shape[:9]), tensor.name)
        data = raw[index] if raw else _contents(tensor)
        inputs.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    for wish in message.outputs:
        refuse_foreign(wish.parameters, wish.name)
    outputs = [wish.name for wish in message.outputs]
    parameters = {key: _value(found) for key, found in message.parameters.items()}
    return InferRequest(message.model_name, message.model_version, inputs, outputs, parameters, message.id)


def _contents(tensor: Any) -> list[Any]:
    """The elements of a tensor that is typed instead of raw."""
    found = tensor.contents
    values = found.bytes_contents if tensor.datatype == "BYTES" else found.uint_contents or found.int_contents
    if len(values) > MOST_VALUES:
        raise InvalidInput(
            f"{len(values)} values came one by one; at most {MOST_VALUES} are taken: use raw_input_contents"
        )
    return list(values)


def _value(parameter: Any) -> Parameter:
    choice = parameter.WhichOneof("parameter_choice")
    found: Parameter = getattr(parameter, choice) if choice else ""
    return found


def write_response(question: InferCommand, request: Any, answers: Sequence[Answer], more: dict[str, Parameter]) -> Any:
    tensors, parameters = build_response(question, answers)
    response = pb.ModelInferResponse(
        model_name=question.model.name, model_version=question.model.version, id=request.id
    )
    _put(response.parameters, parameters | more)
    for tensor in tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response


def write_failure(request: Any, error: TTAError) -> Any:
    """Of one request of a stream."""
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    _put(response.parameters, {FINAL: True})
    return pb.ModelStreamInferResponse(error_message=str(error), infer_response=response)


def _put(into: Any, parameters: Mapping[str, Parameter]) -> None:
    for key, value in parameters.items():
        setattr(into[key], FIELDS[type(value)], value)


FIELDS: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}
