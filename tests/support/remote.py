"""A real gRPC server of the Open Inference Protocol that runs an ONNX file, and does on request what servers do."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.model_config_pb2 import DataType

from tests.support.ensembles import Ensemble, read_config
from tests.support.serving import PATIENCE

TYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(uint8)": "UINT8", "tensor(int64)": "INT64"}
# Messages of any size, as Triton takes them.
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
DTYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "FP64": np.float64,
    "UINT8": np.uint8,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def declared(each: Any) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor in a config, as metadata have them."""
    return DataType.Name(each.data_type).removeprefix("TYPE_"), tuple(each.dims)


def _described(each: Any) -> Any:
    datatype, shape = declared(each)
    return pb.ModelMetadataResponse.TensorMetadata(name=each.name, datatype=datatype, shape=shape)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class RemoteServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves models of ONNX files on a port that it keeps over restarts.

    `failure` is the status that each batch gets; while `gate` is closed batches wait for it, as those of a server do
    that is stopped. `requests` are the batches that came, `cancelled` is set once a call was. With a `repository` of
    exported models it serves its ensembles too.
    """

    def __init__(
        self,
        models: dict[str, Path],
        max_batch: int = 8,
        port: int = 0,
        certificate: Any = None,
        repository: Path | None = None,
    ) -> None:
        self.repository = repository
        self._ensembles: dict[str, Ensemble] = {}
        self._lock = threading.Lock()
        self.port = port or free_port()
        self.models = {name: ort.InferenceSession(str(path)) for name, path in models.items()}
        self.max_batch = max_batch
        self.failure: grpc.StatusCode | None = None
        self.is_ready = True
        self.loading: Sequence[str] = ()
        self.has_index = True
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.requests: list[pb.ModelInferRequest] = []
        self.headers: list[dict[str, Any]] = []
        self.datatypes: dict[str, str] = {}
        self._certificate = certificate
        self._server: grpc.Server | None = None

    @property
    def url(self) -> str:
        return f"grpc{'s' if self._certificate else ''}://127.0.0.1:{self.port}"

    @property
    def rows(self) -> list[int]:
        return [request.inputs[0].shape[0] for request in self.requests]

    def start(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._certificate:
            self._server.add_secure_port(address, self._certificate)
        else:
            self._server.add_insecure_port(address)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.stop(None).wait(PATIENCE)
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.stop()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Batches get no answer inside."""
        self.gate.clear()
        self.entered.clear()
        try:
            yield
        finally:
            self.gate.set()

    # ---- the protocol ----

    def ServerReady(self, request, context):  # noqa: N802
        return pb.ServerReadyResponse(ready=self.is_ready)

    def ModelReady(self, request, context):  # noqa: N802
        return pb.ModelReadyResponse(ready=self._serves(request.name, request.version))

    def RepositoryIndex(self, request, context):  # noqa: N802
        if not self.has_index:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
        entries = [
            {"name": name, "version": "1", "state": "LOADING" if name in self.loading else "READY"}
            for name in self.models
        ]
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**each) for each in entries])

    def ModelMetadata(self, request, context):  # noqa: N802
        if self._is_ensemble(request.name):
            config = read_config(self.repository, request.name)
            return pb.ModelMetadataResponse(
                name=request.name,
                versions=["1"],
                inputs=[_described(each) for each in config.input],
                outputs=[_described(each) for each in config.output],
            )
        model = self.models[request.name]
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            inputs=[self._tensor(each) for each in model.get_inputs()],
            outputs=[self._tensor(each) for each in model.get_outputs()],
        )

    def _tensor(self, each: Any) -> Any:
        shape = [size if isinstance(size, int) else -1 for size in each.shape]
        datatype = self.datatypes.get(each.name, TYPES.get(each.type, "BYTES"))
        return pb.ModelMetadataResponse.TensorMetadata(name=each.name, datatype=datatype, shape=shape)

    def ModelConfig(self, request, context):  # noqa: N802
        answer = pb.ModelConfigResponse()
        if self._is_ensemble(request.name):
            text = (self.repository / request.name / "config.pbtxt").read_text("utf-8")
            text_format.Parse(text, answer.config)
            return answer
        answer.config.max_batch_size = self.max_batch
        return answer

    def ModelInfer(self, request, context):  # noqa: N802
        context.add_callback(lambda: None if self.gate.is_set() else self.cancelled.set())
        self.headers.append(dict(context.invocation_metadata()))
        self.requests.append(request)
        self.entered.set()
        self.gate.wait(PATIENCE)
        if self.failure is not None:
            context.abort(self.failure, "on purpose, /secret/path")
        if not self._serves(request.model_name, request.model_version):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        if self._is_ensemble(request.model_name):
            return self._run_ensemble(request)
        (given,) = request.inputs
        shape = list(given.shape)
        if self.max_batch and shape[0] > self.max_batch:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the batch is too large")
        batch = np.frombuffer(request.raw_input_contents[0], DTYPES[given.datatype]).reshape(shape)
        names = [output.name for output in request.outputs]
        model = self.models[request.model_name]
        image = model.get_inputs()[0]
        return self._response(names, model.run(names, {image.name: batch}))

    def _run_ensemble(self, request: Any) -> Any:
        given = zip(request.inputs, request.raw_input_contents, strict=True)
        inputs = {each.name: np.frombuffer(raw, DTYPES[each.datatype]).reshape(each.shape) for each, raw in given}
        with self._lock:
            if request.model_name not in self._ensembles:
                self._ensembles[request.model_name] = Ensemble(self.repository, request.model_name)
        outputs = self._ensembles[request.model_name].infer(inputs)
        names = [output.name for output in request.outputs]
        return self._response(names, [outputs[name] for name in names])

    @staticmethod
    def _response(names: Sequence[str], values: Sequence[Any]) -> Any:
        answer = pb.ModelInferResponse()
        for name, value in zip(names, values, strict=True):
            datatype = next(name for name, dtype in DTYPES.items() if dtype == value.dtype)
            answer.outputs.add(name=name, datatype=datatype, shape=value.shape)
            answer.raw_output_contents.append(value.tobytes())
        return answer

    def _is_ensemble(self, name: str) -> bool:
        return (
            self.repository is not None
            and (self.repository / name / "config.pbtxt").is_file()
            and name.endswith("_tta")
        )

    def _serves(self, name: str, version: str) -> bool:
        return (name in self.models or self._is_ensemble(name)) and name not in self.loading and version in ("", "1")


def remote_folder(folder: Path, source: Path, url: str | Sequence[str], **keys: Any) -> Path:
    """A model folder with the files of `source` beside its tta.yaml, and no model file: a server has that."""
    import yaml

    folder.mkdir(parents=True)
    config = yaml.safe_load((source / "tta.yaml").read_text("utf-8"))
    config["backend"] = {"name": "triton", "url": url, "model": source.name, **keys}
    for path in source.iterdir():
        if path.is_file() and path.suffix == ".txt":
            (folder / path.name).symlink_to(path)
    (folder / "tta.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return folder
