"""A real Triton 2.51 on the CPU, as `make triton` installs it, with some of the bundled models."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Self

import grpc
import onnxruntime as ort
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support.references import MODELS
from tests.support.remote import TYPES, free_port
from tests.support.serving import PATIENCE, ROOT, until

VENV = Path(os.environ.get("TRITON_VENV", ROOT / ".venv-triton")).absolute()
BACKENDS = Path(__file__).parent / "triton_backend"
MOST_CRASHES = 5
FIND = "import json, sysconfig; print(json.dumps([sysconfig.get_path('purelib'), sysconfig.get_config_var('LIBDIR')]))"


def is_installed() -> bool:
    """True if the server is there, with what runs models of this version of Python."""
    packages = next(VENV.glob("lib/python*/site-packages"), VENV)
    version = packages.parent.name.removeprefix("python")
    stubs = packages / "pytriton" / "tritonserver" / "python_backend_stubs"
    return (stubs / version).is_dir() and (packages / "onnxruntime").is_dir()


class RealTriton:
    """Runs on ports that it keeps over restarts; a context manager that ends its processes.

    Write its repository with `add` before it starts.
    """

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.repository.mkdir(parents=True)
        self.log = folder / "triton.log"
        self._backends = folder / "backends"
        self._ports = {kind: free_port() for kind in ("http", "grpc", "metrics")}
        self._shared = f"tta_{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._crashes = 0
        packages, libraries = json.loads(subprocess.check_output([VENV / "bin" / "python", "-c", FIND]))
        self._server = Path(packages) / "pytriton" / "tritonserver"
        self._libraries = f"{packages}/nvidia_pytriton.libs:{libraries}"
        self._copy_backends()

    def _copy_backends(self) -> None:
        (stub,) = self._server.glob(f"python_backend_stubs/{self._version}/*")
        python, files = self._backends / "python", self._server / "backends" / "python"
        python.mkdir(parents=True)
        for path in (files / "libtriton_python.so", files / "triton_python_backend_utils.py", stub):
            shutil.copy(path, python)
        shutil.copytree(BACKENDS, self._backends / "onnxruntime")

    @property
    def _version(self) -> str:
        return next(VENV.glob("lib/python*")).name.removeprefix("python")

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self._ports['grpc']}"

    def add(self, name: str, max_batch: int = 8) -> Self:
        """A bundled model, of which one instance runs batches of several requests."""
        (self.repository / name / "1").mkdir(parents=True)
        file = self.repository / name / "1" / "model.onnx"
        shutil.copy(MODELS / name / "1" / "model.onnx", file)
        model = ort.InferenceSession(str(file))
        tensors = [("input", each) for each in model.get_inputs()] + [("output", each) for each in model.get_outputs()]
        lines = [f'name: "{name}"', f"max_batch_size: {max_batch}", 'backend: "onnxruntime"', "dynamic_batching { }"]
        lines += ["instance_group [ { kind: KIND_CPU count: 1 } ]"]
        for kind, each in tensors:
            dims = [size if isinstance(size, int) else -1 for size in each.shape[1:]]
            lines.append(f'{kind} [ {{ name: "{each.name}" data_type: TYPE_{TYPES[each.type]} dims: {dims} }} ]')
        (self.repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")
        return self

    def launch(self) -> Self:
        """Starts it, without waiting."""
        ports = self._ports
        flags = [f"--{kind}-address=127.0.0.1" for kind in ports] + [f"--{kind}-port={p}" for kind, p in ports.items()]
        flags += [f"--model-repository={self.repository}", f"--backend-directory={self._backends}"]
        flags += [f"--cache-directory={self._server / 'caches'}", "--allow-gpu-metrics=false", "--exit-timeout-secs=5"]
        flags += ["--pinned-memory-pool-byte-size=0"]
        flags += [f"--backend-config=python,shm-region-prefix-name={self._shared}"]
        environment = {
            **os.environ,
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(VENV),
            "LD_LIBRARY_PATH": self._libraries,
        }
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._server / "bin" / "tritonserver", *flags],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def start(self) -> Self:
        self.launch()
        until(self.is_ready)
        return self

    def keep_up(self) -> bool:
        """Starts it again if it ended by itself, a few times; always true.

        Its python backend, which runs the models here, has a segmentation fault in its first batches now and then
        (libtriton_python.so, in TRITONBACKEND_ModelInstanceExecute), mostly on a busy machine.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            assert self._crashes < MOST_CRASHES, self.log.read_text()
            self._crashes += 1
            self.kill()
            self.launch()
        return True

    def is_ready(self) -> bool:
        self.keep_up()
        with grpc.insecure_channel(self.url.partition("://")[2]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with contextlib.suppress(grpc.RpcError):
                return bool(stub.ServerReady(pb.ServerReadyRequest(), timeout=1).ready)
        return False

    def executed(self, name: str) -> tuple[int, int]:
        """How many rows and how many batches of a model it ran."""
        with grpc.insecure_channel(self.url.partition("://")[2]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            (found,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=name), timeout=PATIENCE).model_stats
        return found.inference_count, found.execution_count

    def send_signal(self, number: signal.Signals) -> None:
        """To the server alone: its python backend aborts if the processes of models stop in the middle of a batch."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None
        for path in Path("/dev/shm").glob(f"{self._shared}*"):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self.kill()
