"""Reflection describes services and messages, and needs a key where keys are needed; no library text over gRPC."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support import pictures
from tests.support.examples import times
from tests.support.serving import PATIENCE, Server, models_folder, until
from tests.support.wording import check_sentence
from tta_server.api.oip.semantics import TTA_PARAMETERS

KEY = "alice-0123456789abcdef"
SERVICE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
PredictCommand = reflection_pb2.ServerReflectionRequest


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as made:
        yield made


def reflect(channel: grpc.Channel, questions: Sequence[Any], metadata: Any = None) -> list[Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return list(stub.ServerReflectionInfo(iter(questions), timeout=PATIENCE, metadata=metadata))


def test_services_are_listed(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {SERVICE, HEALTH, "grpc.reflection.v1alpha.ServerReflection"}


def test_a_client_without_the_proto_file_can_call(channel: grpc.Channel) -> None:
    """As grpcurl does: build the messages from reflection."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    methods = {method.name: method for method in pool.FindServiceByName(SERVICE).methods}
    assert {"ModelInfer", "ModelStreamInfer", "ServerLive", "ModelStatistics"} <= set(methods)
    request, response = (
        message_factory.GetMessageClass(kind)
        for kind in (methods["ServerLive"].input_type, methods["ServerLive"].output_type)
    )
    ask = channel.unary_unary(
        f"/{SERVICE}/ServerLive",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    live: Any = ask(request(), timeout=PATIENCE)
    assert live.live
    assert pool.FindServiceByName(HEALTH).methods_by_name["Check"]


def test_the_newer_name_answers_alike(channel: grpc.Channel) -> None:
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=PredictCommand.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([PredictCommand(file_containing_symbol=SERVICE)]), timeout=PATIENCE)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert any(service.name == "GRPCInferenceService" for file in files for service in file.service)


def test_an_unknown_name_gets_an_error_response_and_the_call_goes_on(channel: grpc.Channel) -> None:
    questions = [
        PredictCommand(file_containing_symbol="no.Such"),
        PredictCommand(file_by_filename="none.proto"),
        PredictCommand(),
    ]
    answers = reflect(channel, [*questions, PredictCommand(list_services="*")])
    assert [answer.HasField("error_response") for answer in answers] == [True, True, True, False]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"), "cifar10")


@pytest.fixture(scope="module")
def locked(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Needs a key; one reflection call at a time, which ends after two seconds without a request."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    arguments = ("--models", str(models), "--port", "0", "--keys", str(keys), "--max-connections", "8")
    with Server(*arguments, "--receive-seconds", "2") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


BEARER = (("authorization", f"Bearer {KEY}"),)


def test_reflection_needs_a_key_where_the_others_do(locked: Server) -> None:
    with grpc.insecure_channel(locked.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            reflect(channel, [PredictCommand(list_services="*")])
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert len(reflect(channel, [PredictCommand(list_services="*")], BEARER)) == 1


@pytest.mark.timing
def test_a_silent_call_ends_by_itself_and_makes_room(locked: Server) -> None:
    """While a call without a request is open, others are refused."""
    with grpc.insecure_channel(locked.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        ended = threading.Event()

        def silent() -> Iterator[Any]:
            yield PredictCommand(list_services="*")
            ended.wait(PATIENCE)

        call = stub.ServerReflectionInfo(silent(), timeout=PATIENCE, metadata=BEARER)
        assert next(call).HasField("list_services_response")
        until(lambda: status(channel) == grpc.StatusCode.OK)
        ended.set()
        assert list(call) == []


def status(channel: grpc.Channel) -> grpc.StatusCode:
    """The status of one more reflection call."""
    try:
        reflect(channel, [PredictCommand(list_services="*")], BEARER)
    except grpc.RpcError as error:
        check_sentence(error.details())
        return error.code()
    return grpc.StatusCode.OK


# ---- error sentences ----

GARBAGE = b"\xff\xff\xff\x07garbage"
METHODS = [f"{SERVICE}/{name}" for name in ("ModelInfer", "ServerLive", "ModelMetadata", "RepositoryIndex")]


@pytest.mark.parametrize("method", [*METHODS, f"{HEALTH}/Check"])
def test_bytes_that_are_no_message_get_no_library_text(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}")(GARBAGE, timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    check_sentence(caught.value.details())


@pytest.mark.parametrize(
    "method",
    [f"{SERVICE}/ModelStreamInfer", f"{HEALTH}/Watch", "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"],
)
def test_bytes_that_are_no_message_of_a_stream_get_no_library_text(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"/{method}")(iter([GARBAGE]), timeout=PATIENCE))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    check_sentence(caught.value.details())


def test_messages_before_invalid_bytes_are_answered(channel: grpc.Channel) -> None:
    request = pb.ModelInferRequest(model_name="nothing", id="first")
    call = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
    )(iter([request.SerializeToString(), GARBAGE]), timeout=PATIENCE)
    assert "unknown model" in next(call).error_message
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


VALUES = st.one_of(
    st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
    st.floats().map(lambda value: pb.InferParameter(double_param=value)),
    st.text(st.characters(categories=["Lu", "Nd", "Po", "Zs", "Cc"]), max_size=40).map(
        lambda value: pb.InferParameter(string_param=value)
    ),
    st.just(pb.InferParameter()),
)


@settings(max_examples=times(200))
@given(
    st.dictionaries(
        st.sampled_from([*TTA_PARAMETERS, "timeout", "priority", "tta_other"]), VALUES, min_size=1, max_size=2
    )
)
def test_no_parameter_over_grpc_gets_library_text(server: Server, parameters: dict[str, Message]) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        request = pb.ModelInferRequest(model_name="cifar10", parameters=parameters)
        request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
            pictures.png(32, 32)
        )
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            check_sentence(error.details())
