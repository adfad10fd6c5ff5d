"""A remote model gives what its file gives; every failure of its server is the error that clients should get."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from tests.support.certificates import make_certificate
from tests.support.onnx_models import classifier, graph
from tests.support.references import MODELS
from tests.support.remote import RemoteServer
from tests.support.serving import PATIENCE, until
from tta_server.backends.cancel import Abort
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.backends.triton import Target, Tls
from tta_server.backends.triton import backend as triton
from tta_server.backends.triton import servers as calls
from tta_server.backends.triton.backend import TritonBackend
from tta_server.errors import BackendFailed, BackendUnavailable, ConfigError, DeadlineExceeded, TTAError
from tta_server.repository.failure import SEE_LOG, public_sentence

BATCH = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.onnx", classifier())


@pytest.fixture
def server(file: Path) -> Iterator[RemoteServer]:
    with RemoteServer({"m": file}) as running:
        yield running


@pytest.fixture
def backend(server: RemoteServer) -> Iterator[TritonBackend]:
    opened = TritonBackend(Target((server.url,), "m"))
    yield opened
    opened.close()


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def refusal(*urls: str, model: str = "m", version: str = "") -> TTAError:
    with pytest.raises((ConfigError, BackendUnavailable)) as caught:
        TritonBackend(Target(urls, model, version))
    return caught.value


# ---- what it gives ----


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("shape", [("n", 3, 8, 8), ("n", 8, 8, 3)])
def test_a_remote_model_gives_what_its_file_gives(tmp_path: Path, dtype: str, shape: tuple[str, int, int, int]) -> None:
    path = saved(tmp_path / "model.onnx", classifier(shape, dtype, outputs=("scores", "more")))
    batch = np.random.default_rng(1).integers(0, 255, (4, *shape[1:])).astype(dtype)
    with RemoteServer({"m": path}) as server:
        remote, local = TritonBackend(Target((server.url,), "m")), OnnxRuntimeBackend(path)
        assert remote.signature == local.signature
        found, expected = remote.infer(batch), local.infer(batch)
        remote.close()
    assert list(found) == list(expected) == ["scores", "more"]
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_a_bundled_model_gives_the_same_bits() -> None:
    path = MODELS / "clothing" / "1" / "model.onnx"
    batch = np.random.default_rng(2).random((2, 3, 128, 128), np.float32)
    with RemoteServer({"clothing": path}) as server:
        remote = TritonBackend(Target((server.url,), "clothing"))
        found = remote.infer(batch)
        remote.close()
    np.testing.assert_array_equal(found["logits"], OnnxRuntimeBackend(path).infer(batch)["logits"])


@pytest.mark.parametrize(
    ("largest", "ladder"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (500, (*(1 << n for n in range(8)),))],
)
def test_the_ladder_ends_at_the_largest_batch_of_the_server(file: Path, largest: int, ladder: tuple[int, ...]) -> None:
    with RemoteServer({"m": file}, max_batch=largest) as server:
        remote = TritonBackend(Target((server.url,), "m"))
        remote.close()
    assert remote.ladder == ladder
    assert remote.signature.shape == (1 if largest == 1 else None, 3, 8, 8)


def test_without_a_batch_size_the_model_has_the_axis_or_none(file: Path, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("ReduceMean", ["image"], ["scores"], axes=[1, 2], keepdims=0)]
    declared = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [3])
    single = saved(tmp_path / "model.onnx", graph(nodes, (3, 8, 8), "float32", [declared]))
    with RemoteServer({"free": file, "single": single}, max_batch=0) as server:
        free, alone = (TritonBackend(Target((server.url,), name)) for name in ("free", "single"))
        assert (free.ladder, free.signature.shape) == ((), (None, 3, 8, 8))
        assert (alone.ladder, alone.signature.shape) == ((1,), (1, 3, 8, 8))
        assert alone.signature.outputs == {"scores": (1, 3)}
        np.testing.assert_array_equal(alone.infer(BATCH[:1])["scores"], free.infer(BATCH[:1])["scores"])
        for each in (free, alone):
            each.close()


def test_a_call_carries_headers_version_and_timeout(server: RemoteServer) -> None:
    remote = TritonBackend(Target((server.url,), "m", "1", headers=(("authorization", "Bearer secret"),)))
    remote.infer(BATCH, Abort(time.monotonic() + PATIENCE))
    remote.close()
    (request,) = server.requests
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert request.model_version == "1"
    assert 0 < request.parameters["timeout"].int64_param <= PATIENCE * 1e6


def test_as_many_batches_as_threads_are_in_flight_together(server: RemoteServer, backend: TritonBackend) -> None:
    with ThreadPoolExecutor(4) as slots:
        with server.hanging():
            runs = [slots.submit(backend.infer, BATCH) for _ in range(4)]
            until(lambda: len(server.requests) == 4)
        assert [run.result(PATIENCE)["scores"].shape for run in runs] == [(2, 3)] * 4


def test_tls_trusts_the_stated_authority(file: Path, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    pair = [(key.read_bytes(), cert.read_bytes())]
    with RemoteServer({"m": file}, certificate=grpc.ssl_server_credentials(pair)) as server:
        remote = TritonBackend(Target((server.url,), "m", tls=Tls(ca=cert.read_bytes())))
        assert remote.infer(BATCH)["scores"].shape == (2, 3)
        remote.close()
        assert isinstance(refusal(server.url), BackendUnavailable)


# ---- failures ----

TABLE = {
    grpc.StatusCode.UNAVAILABLE: BackendUnavailable,
    grpc.StatusCode.NOT_FOUND: BackendUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INVALID_ARGUMENT: BackendFailed,
    grpc.StatusCode.INTERNAL: BackendFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BackendFailed,
    grpc.StatusCode.UNAUTHENTICATED: BackendFailed,
    grpc.StatusCode.CANCELLED: BackendFailed,
    grpc.StatusCode.UNKNOWN: BackendFailed,
}


@pytest.mark.parametrize("status", TABLE, ids=lambda status: status.name)
def test_each_status_has_its_error_and_the_servers_text_is_only_in_the_cause(
    server: RemoteServer, backend: TritonBackend, status: grpc.StatusCode
) -> None:
    server.failure = status
    with pytest.raises(TTAError) as caught:
        backend.infer(BATCH, Abort(time.monotonic() + PATIENCE / 4))
    assert type(caught.value) is TABLE[status]
    assert "on purpose" in str(caught.value.__cause__)
    for word in ("on purpose", "secret", server.url, status.name):
        assert word not in str(caught.value)
    server.failure = None
    assert backend.infer(BATCH)["scores"].shape == (2, 3)


def test_an_abort_cancels_the_call(server: RemoteServer, backend: TritonBackend) -> None:
    abort = Abort()
    with ThreadPoolExecutor(1) as slot, server.hanging():
        run = slot.submit(backend.infer, BATCH, abort)
        assert server.entered.wait(PATIENCE)
        abort.request()
        assert isinstance(run.exception(PATIENCE), BackendFailed)
        assert server.cancelled.wait(PATIENCE)


def test_an_abort_before_the_call_ends_it_too(server: RemoteServer, backend: TritonBackend) -> None:
    abort = Abort()
    abort.request()
    with server.hanging(), pytest.raises(BackendFailed):
        backend.infer(BATCH, abort)


def test_a_call_ends_at_the_deadline_of_the_run(server: RemoteServer, backend: TritonBackend) -> None:
    with server.hanging():
        with pytest.raises(DeadlineExceeded):
            backend.infer(BATCH, Abort(time.monotonic() + 0.05))
        assert server.cancelled.wait(PATIENCE)
    with pytest.raises(DeadlineExceeded):
        backend.infer(BATCH, Abort(time.monotonic() - 1))


def test_a_call_that_no_request_waits_for_ends_too(
    server: RemoteServer, backend: TritonBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "PATIENCE", 0.05)
    with server.hanging(), pytest.raises(BackendUnavailable):
        backend.infer(BATCH)


def test_a_server_that_is_started_again_on_its_port_is_found(server: RemoteServer, backend: TritonBackend) -> None:
    server.stop()
    with pytest.raises(BackendUnavailable):
        backend.infer(BATCH)
    server.start()
    until(lambda: works(backend))


def works(backend: TritonBackend) -> bool:
    try:
        return backend.infer(BATCH)["scores"].shape == (2, 3)
    except BackendUnavailable:
        return False


def test_a_response_without_the_output_or_with_other_bytes_is_a_failure(
    server: RemoteServer, backend: TritonBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = server._response
    for names in ([], ["other"]):
        monkeypatch.setattr(server, "_response", lambda _, values, names=names: response(names, values[: len(names)]))
        with pytest.raises(BackendFailed):
            backend.infer(BATCH)

    def short(names, values):
        answer = response(names, values)
        answer.raw_output_contents[0] = answer.raw_output_contents[0][:-1]
        return answer

    monkeypatch.setattr(server, "_response", short)
    with pytest.raises(BackendFailed) as caught:
        backend.infer(BATCH)
    assert str(caught.value.__cause__) == "output scores has 23 bytes, which is not FP32 [2, 3]"


# ---- several servers ----


@pytest.fixture
def two(file: Path) -> Iterator[tuple[RemoteServer, RemoteServer]]:
    with RemoteServer({"m": file}) as first, RemoteServer({"m": file}) as second:
        yield first, second


@pytest.fixture
def balanced(two: tuple[RemoteServer, RemoteServer], monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonBackend]:
    monkeypatch.setattr(calls, "WATCH_SECONDS", 0.1)
    opened = TritonBackend(Target(tuple(server.url for server in two), "m"))
    yield opened
    opened.close()


def test_servers_get_batches_in_turn(two: tuple[RemoteServer, RemoteServer], balanced: TritonBackend) -> None:
    for _ in range(6):
        balanced.infer(BATCH)
    assert [len(server.requests) for server in two] == [3, 3]
    assert balanced.device == f"{two[0].url} {two[1].url}"


def test_no_batch_is_lost_with_a_server_and_it_gets_batches_again(
    two: tuple[RemoteServer, RemoteServer], balanced: TritonBackend
) -> None:
    first, second = two
    first.stop()
    for _ in range(4):
        balanced.infer(BATCH)
    assert len(second.requests) == 4
    first.start()
    until(lambda: works(balanced) and first.requests)
    second.stop()
    first.requests.clear()
    for _ in range(4):
        balanced.infer(BATCH)
    first.stop()
    with pytest.raises(BackendUnavailable):
        balanced.infer(BATCH)


def test_a_server_that_hangs_costs_one_batch(two: tuple[RemoteServer, RemoteServer], balanced: TritonBackend) -> None:
    first, second = two
    first.is_ready = False
    first.loading = ("m",)  # as a stopped process, it does not say that it is ready
    with first.hanging():
        lost = 0
        for _ in range(6):
            try:
                balanced.infer(BATCH, Abort(time.monotonic() + (0.2 if not lost else PATIENCE)))
            except DeadlineExceeded:
                lost += 1
    assert (lost, len(first.requests)) == (1, 1)
    assert len(second.requests) >= 5
    first.loading = ()
    until(lambda: works(balanced) and len(first.requests) > 1)


def test_one_server_of_two_is_enough_to_start(two: tuple[RemoteServer, RemoteServer]) -> None:
    first, second = two
    first.stop()
    remote = TritonBackend(Target((first.url, second.url), "m"))
    for _ in range(2):
        remote.infer(BATCH)
    remote.close()
    second.stop()
    assert isinstance(refusal(first.url, second.url), BackendUnavailable)


def test_servers_with_different_models_are_refused(file: Path) -> None:
    with RemoteServer({"m": file}) as first, RemoteServer({"m": file}, max_batch=4) as second:
        sentence = str(refusal(first.url, second.url))
    assert sentence == f"backend.url: the servers {first.url}, {second.url} serve different models m"


# ---- what it says at load ----


def test_a_server_that_is_not_there_or_not_ready_may_come(server: RemoteServer) -> None:
    server.loading = ("m",)
    loading = refusal(server.url)
    server.is_ready = server.has_index = False
    starting = refusal(server.url)
    server.stop()
    gone = refusal(server.url)
    for error in (loading, starting, gone):
        assert isinstance(error, BackendUnavailable)
        assert str(error) == "its Triton server is not ready"
        assert (error.device, error.permits) == (server.url, 4)
        assert server.url in str(error.__cause__)
    assert "model m is LOADING" in str(loading.__cause__)
    assert "is starting" in str(starting.__cause__)


def test_a_model_is_served_by_a_server_that_is_not_ready_for_another_ones_failure(server: RemoteServer) -> None:
    server.is_ready = False
    TritonBackend(Target((server.url,), "m")).close()


def test_a_missing_model_or_version_is_named_with_what_there_is(file: Path) -> None:
    with RemoteServer({"m": file, "other": file}) as server:
        missing, version = refusal(server.url, model="x"), refusal(server.url, version="7")
        server.has_index = False
        unlisted = refusal(server.url, model="x")
    assert str(missing) == f"backend.model: {server.url} has no model x; it has m, other"
    assert str(version) == f"backend.version: {server.url} has no version 7 of m; it has 1"
    assert str(unlisted) == f"backend.model: {server.url} has no model x that is ready"
    for error in (missing, version, unlisted):
        assert isinstance(error, ConfigError)
        assert public_sentence(error, [Path()]).partition(": ")[2] == SEE_LOG


def test_inputs_other_than_one_image_are_named(file: Path, server: RemoteServer, tmp_path: Path) -> None:
    server.datatypes = {"image": "INT64"}
    place = f"model m of {server.url}"
    assert str(refusal(server.url)) == (
        f"{place}: input image is INT64 [-1, 3, 8, 8]; it must have 4 axes, or 3 without a batch axis, of FP32, FP16, "
        "UINT8"
    )
    server.datatypes = {"scores": "BYTES"}
    assert str(refusal(server.url)).startswith(f"{place}: output scores is BYTES, not a tensor")
    nodes = [onnx.helper.make_node("Add", ["image", "mask"], ["sum"])]
    declared = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    double = saved(tmp_path / "m.onnx", graph(nodes, ("n", 3, 8, 8), "float32", [declared], ("image", "mask")))
    with RemoteServer({"m": double}) as other:
        assert (
            str(refusal(other.url)) == f"model m of {other.url} has the inputs image, mask; it must have one, an image"
        )


def test_without_a_call_for_the_largest_batch_the_models_own_axis_counts(
    server: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the Open Inference Protocol that is no Triton; any other failure of that call is a mistake."""
    status = grpc.StatusCode.UNIMPLEMENTED
    monkeypatch.setattr(server, "ModelConfig", lambda _, context: context.abort(status, "no such call"))
    server.stop()
    server.start()
    remote = TritonBackend(Target((server.url,), "m"))
    remote.close()
    assert remote.ladder == ()
    status = grpc.StatusCode.PERMISSION_DENIED
    refused = refusal(server.url)
    assert isinstance(refused, ConfigError)
    assert "does not describe model m: " in str(refused)
    assert "PERMISSION_DENIED" in str(refused)


def test_closing_ends_the_thread_and_runs(server: RemoteServer, backend: TritonBackend) -> None:
    thread = backend._servers._thread
    with ThreadPoolExecutor(1) as slot, server.hanging():
        run = slot.submit(backend.infer, BATCH)
        assert server.entered.wait(PATIENCE)
        backend.close()
        backend.close()
        assert isinstance(run.exception(PATIENCE), TTAError)
    assert thread not in threading.enumerate()
