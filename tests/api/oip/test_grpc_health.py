"""`grpc.health.v1.Health`: the server and each model."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.serving import Server

pytestmark = pytest.mark.timing


@pytest.fixture
def health(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "clothing"])
def test_health_of_the_server_and_of_each_model(health: Any, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request).status == SERVING
    watch = health.Watch(request)
    assert next(watch).status == SERVING
    watch.cancel()


def test_the_health_of_an_unknown_service_is_not_found(health: Any) -> None:
    request = health_pb2.HealthCheckRequest(service="nothing")
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(request)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(request)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
