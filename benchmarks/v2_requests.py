"""Requests of the Open Inference Protocol (v2), encoded by hand: for HTTP with JSON or binary tensors, and for gRPC.

A request has an id, parameters, images (encoded files), and one output, or none to get all that come by default.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
RAW = {"Inference-Header-Content-Length": "0"}
"""Headers of a request whose body is one image file."""

Request = tuple[bytes, dict[str, str]]
"""Body and headers of an HTTP request."""


@dataclass(frozen=True)
class Inference:
    """One inference request. `shape` is that of the images' tensor, (B, 1) unless stated."""

    images: Sequence[bytes]
    id: str = ""
    parameters: Mapping[str, str | int] = field(default_factory=dict)
    output: str = ""
    shape: Sequence[int] = ()

    def as_json(self) -> Request:
        """Images in base64; the answer is JSON."""
        data = [base64.b64encode(image).decode() for image in self.images]
        return json.dumps(self._header(self.parameters, {"data": data}, {})).encode(), {}

    def as_binary(self) -> Request:
        """Images as bytes behind the JSON header; the answer's tensors are binary too."""
        data = b"".join(map(element, self.images))
        parameters = self.parameters if self.output else {**self.parameters, "binary_data_output": True}
        tensor = {"parameters": {"binary_data_size": len(data)}}
        head = json.dumps(self._header(parameters, tensor, {"parameters": {"binary_data": True}})).encode()
        return head + data, {"Inference-Header-Content-Length": str(len(head))}

    def _header(self, parameters: Mapping[str, Any], tensor: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        image = {"name": "IMAGE", "datatype": "BYTES", "shape": list(self._shape()), **tensor}
        header: dict[str, Any] = {"inputs": [image], "parameters": dict(parameters)}
        if self.id:
            header["id"] = self.id
        if self.output:
            header["outputs"] = [{"name": self.output, **output}]
        return header

    def as_message(self, model: str) -> Any:
        """The message of ModelInfer and ModelStreamInfer."""
        request = pb.ModelInferRequest(model_name=model, id=self.id)
        for key, value in self.parameters.items():
            setattr(request.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)
        request.inputs.add(name="IMAGE", datatype="BYTES", shape=self._shape())
        if self.output:
            request.outputs.add(name=self.output)
        request.raw_input_contents.append(b"".join(map(element, self.images)))
        return request

    def _shape(self) -> Sequence[int]:
        return self.shape or (len(self.images), 1)


def element(data: bytes) -> bytes:
    """One element of a BYTES tensor: its length in 4 bytes, little endian, and the data."""
    return struct.pack("<I", len(data)) + data


def unary(channel: grpc.Channel) -> Any:
    """ModelInfer on that channel: called with a message, returns ModelInferResponse."""
    return channel.unary_unary(
        f"{SERVICE}ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )


def stream(channel: grpc.Channel) -> Any:
    """ModelStreamInfer on that channel: called with an iterator of messages, yields ModelStreamInferResponse."""
    return channel.stream_stream(
        f"{SERVICE}ModelStreamInfer", pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
