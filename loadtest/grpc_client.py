"""A gRPC client of the load test: infer calls, unary and as a stream."""

from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from loadtest.mix import VIEWS, Ask, Reply

PRIORITIES = {"interactive": 1, "batch": 2}
PATIENCE_S = 10.0
"""Beyond the budget, before a call ends."""
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
"""Answers of any size; no connection shared with other users."""
REFUSED = "overloaded"


class GrpcClient:
    """One connection, with a key and TLS where the server has them. Calls return a Reply, also of an error."""

    def __init__(self, address: str, key: str = "", tls: bool = False, cacert: str | None = None) -> None:
        """`cacert` is a PEM file of authorities; None: those that come with gRPC."""
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        if tls:
            trusted = Path(cacert).read_bytes() if cacert else None
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted), OPTIONS)
        else:
            channel = grpc.insecure_channel(address, OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def infer(self, ask: Ask) -> Reply:
        try:
            return answered(self._stub.ModelInfer(infer_request(ask), metadata=self._metadata, timeout=_patience(ask)))
        except grpc.RpcError as error:
            return failed(error)

    def stream(self, ask: Ask) -> Reply:
        """The last of the responses."""
        requests = iter([infer_request(ask)])
        try:
            *_, last = self._stub.ModelStreamInfer(requests, metadata=self._metadata, timeout=_patience(ask))
        except grpc.RpcError as error:
            return failed(error)
        except ValueError:
            return Reply(error="the stream ended without a response")
        return answered(last.infer_response) if not last.error_message else failed_in_stream(last)


def _patience(ask: Ask) -> float:
    return ask.budget_ms / 1e3 + PATIENCE_S


def infer_request(ask: Ask) -> Any:
    """The image as one encoded element; the budget in microseconds."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request = pb.ModelInferRequest(model_name=ask.model, inputs=[tensor])
    request.raw_input_contents.append(len(ask.image).to_bytes(4, "little") + ask.image)
    request.parameters["timeout"].int64_param = round(ask.budget_ms * 1e3)
    request.parameters["priority"].int64_param = PRIORITIES[ask.priority]
    request.parameters["tta_max_views"].int64_param = VIEWS
    request.parameters["tta_stop"].string_param = "all"
    return request


def answered(response: Any) -> Reply:
    return Reply(response.parameters["tta_views"].int64_param, response.parameters["tta_elapsed_ms"].double_param)


def failed(error: Any) -> Reply:
    """RESOURCE_EXHAUSTED with the time to retry is a refusal."""
    retry_after = dict(error.trailing_metadata() or ()).get("retry-after-ms")
    if retry_after is not None:
        return Reply(retry_after_ms=float(retry_after))
    return Reply(error=f"{error.code().name}: {(error.details() or '')[:200]}")


def failed_in_stream(message: Any) -> Reply:
    parameters = message.infer_response.parameters
    if parameters["tta_code"].string_param == REFUSED:
        return Reply(retry_after_ms=parameters["tta_retry_after_ms"].int64_param)
    return Reply(error=message.error_message[:200])
