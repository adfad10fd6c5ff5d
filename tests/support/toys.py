"""Tiny models with faults on demand: by the image's shade, by the colour of its first pixel, or by a switch."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.serving import PATIENCE, until
from tta_server.application import Application
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.cli.server import Server
from tta_server.errors import BackendFailed
from tta_server.repository.model import Model
from tta_server.settings import Settings

CONFIG = """\
task: classification
labels: [red, green, blue]
input: {size: [8, 8], scale: 1}
output: {kind: logits}
policy: hflip
symmetries: [hflip]
budget: {default_ms: 200, max_ms: 10000}
"""
ENDLESS = 1_000_000
"""Iterations for an image in RED: about a second."""
RED = (255, 9, 9)


def faulty_model(folder: Path) -> Path:
    """Write a model folder.

    Scores are the roots of each channel's mean minus 1: NaN for a black image, endless work for one in RED.
    """
    constants = {"one": 1.0, "vivid": 241.0, "long": ENDLESS / 5, "zero": 0.0, "on": True}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["means", "one"], ["less"]),
        helper.make_node("Sqrt", ["less"], ["roots"]),
        helper.make_node("ReduceMax", ["means"], ["top"], keepdims=0),
        helper.make_node("ReduceMin", ["means"], ["bottom"], keepdims=0),
        helper.make_node("Sub", ["top", "bottom"], ["between"]),
        helper.make_node("Sub", ["between", "vivid"], ["over"]),
        helper.make_node("Relu", ["over"], ["glare"]),
        helper.make_node("Mul", ["glare", "long"], ["rounds"]),
        helper.make_node("Cast", ["rounds"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "on", "zero"], ["last"], body=_body()),
        helper.make_node("Mul", ["last", "zero"], ["nothing"]),
        helper.make_node("Add", ["roots", "nothing"], ["scores"]),
    ]
    return _write(folder, _graph(nodes, constants, "n"))


def _body() -> onnx.GraphProto:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Cos", ["before"], ["after"]),
    ]
    return helper.make_graph(
        nodes,
        "round",
        [value("round", TensorProto.INT64), value("go", TensorProto.BOOL), value("before", TensorProto.FLOAT)],
        [value("go_on", TensorProto.BOOL), value("after", TensorProto.FLOAT)],
    )


# ---- traps ----

TRAPS = {
    "slow": (0, 255, 255),
    "endless": (255, 0, 0),
    "stuck": (0, 255, 0),
    "fails": (0, 0, 255),
    "nan": (255, 255, 0),
}
"""What a view's first pixel does to the model's run:

slow: a loop of about 60 ms; endless: one that ends only when ONNX Runtime is asked to; stuck: one operation of
about 40 s that nothing ends; fails: an index out of range; nan: that view's own scores are NaN.
"""
SLOW, FOREVER = 6e4, 1e15
SIDE = 4000
"""Side of the square matrices that a stuck run multiplies: 128 MB each, of integers, which no fast kernel takes."""


def trap_model(folder: Path, batch: int | str = 1, extra: str = "") -> Path:
    """Write a model folder; scores are each channel's mean over 64. With a batch of 1 each view runs alone."""
    colors = [_traps(name, color) for name, color in TRAPS.items()]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "rows"], ["color"]),
        *(node for found in colors for node in found),
        helper.make_node("Mul", ["slow", "some"], ["some rounds"]),
        helper.make_node("Mul", ["endless", "forever"], ["endless rounds"]),
        helper.make_node("Add", ["some rounds", "endless rounds"], ["rounds"]),
        helper.make_node("Cast", ["rounds"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "on", "zero"], ["looped"], body=_body()),
        helper.make_node("Cast", ["fails"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["single", "index"], ["gathered"]),
        helper.make_node("Cast", ["stuck"], ["is_stuck"], to=TensorProto.BOOL),
        helper.make_node("If", ["is_stuck"], ["multiplied"], then_branch=_multiply(), else_branch=_skip()),
        helper.make_node("Add", ["looped", "gathered"], ["one_of_two"]),
        helper.make_node("Add", ["one_of_two", "multiplied"], ["work"]),
        helper.make_node("Mul", ["work", "zero"], ["nothing"]),
        helper.make_node("Mul", ["means", "small"], ["calm"]),
        helper.make_node("Add", ["calm", "nothing"], ["sound"]),
        helper.make_node("Where", ["nan rows", "not a number", "sound"], ["scores"]),
    ]
    constants = {
        "some": SLOW,
        "forever": FOREVER,
        "on": True,
        "zero": 0.0,
        "small": 1 / 64,
        "single": [0.0],
        "not a number": float("nan"),
        "starts": [0, 0],
        "ends": [1, 1],
        "axes": [2, 3],
        "rows": [-1, 3],
        "least": [1],
        "sides": [SIDE, SIDE],
        **{f"{name} is": [[float(part) for part in color]] for name, color in TRAPS.items()},
    }
    return _write(folder, _graph(nodes, constants, batch), extra)


def _traps(name: str, color: Sequence[int]) -> list[onnx.NodeProto]:
    """Nodes for `<name> rows`, booleans (n, 1): the rows that begin with that colour; `<name>` is 1.0 if any does."""
    return [
        helper.make_node("Equal", ["color", f"{name} is"], [f"{name} parts"]),
        helper.make_node("Cast", [f"{name} parts"], [f"{name} ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", [f"{name} ones"], [f"{name} all"], axes=[1], keepdims=1),
        helper.make_node("Cast", [f"{name} all"], [f"{name} rows"], to=TensorProto.BOOL),
        helper.make_node("ReduceMax", [f"{name} all"], [name], keepdims=0),
    ]


def _multiply() -> onnx.GraphProto:
    """The matrices' size depends on the image: ONNX Runtime would multiply constants while it loads the model."""
    one = helper.make_tensor("of ones", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["stuck"], ["as_integer"], to=TensorProto.INT64),
        helper.make_node("Mul", ["as_integer", "sides"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
        helper.make_node("MatMul", ["ones", "ones"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["done"], to=TensorProto.FLOAT),
    ]
    return helper.make_graph(nodes, "then", [], [helper.make_tensor_value_info("done", TensorProto.FLOAT, [])])


def _skip() -> onnx.GraphProto:
    nodes = [helper.make_node("Identity", ["zero"], ["skipped"])]
    return helper.make_graph(nodes, "else", [], [helper.make_tensor_value_info("skipped", TensorProto.FLOAT, [])])


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, Any], batch: int | str) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])
    kinds = {float: np.float32, int: np.int64, bool: np.bool_}
    tensors = [
        numpy_helper.from_array(np.array(value, kinds[type(np.array(value).flat[0].item())]), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "toy", [image], [scores], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write(folder: Path, model: onnx.ModelProto, extra: str = "") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "tta.yaml").write_text(CONFIG + extra)
    onnx.save(model, folder / "1" / "model.onnx")
    return folder


def trap_image(plain: str | None = None, mirrored: str | None = None, shade: int = 100) -> NDArray[np.uint8]:
    """Return an 8x8 image of one shade whose plain view, or whose mirror image, triggers the trap of that name."""
    image = np.full((8, 8, 3), shade, np.uint8)
    if plain:
        image[0, 0] = TRAPS[plain]
    if mirrored:
        image[0, -1] = TRAPS[mirrored]
    return image


# ---- a model that can be switched ----


SLOW_SECONDS = 0.2


class Switchable:
    """A backend around a real one that counts its `batches`.

    `mode`: works, fails (each batch raises), nan (each output is), hangs (each batch runs until it is ended), stuck
    (each runs until `release` is set), slow (each takes SLOW_SECONDS longer).
    """

    def __init__(self, real: Backend) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self.permits = real.permits
        self._real = real
        self.mode = "works"
        self.batches = 0
        self.release = threading.Event()
        self.entered = threading.Event()

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        self.batches += 1
        if self.mode == "fails":
            raise BackendFailed("the model failed on this image") from RuntimeError("switched off")
        if self.mode in ("hangs", "stuck"):
            end = self.release if self.mode == "stuck" else threading.Event()
            self.entered.set()
            if abort is not None and self.mode == "hangs":
                abort.on_request(end.set)
            end.wait(PATIENCE)
            raise BackendFailed("the model failed on this image") from RuntimeError("ended")
        if self.mode == "slow":
            threading.Event().wait(SLOW_SECONDS)
        outputs = self._real.infer(batch, abort)
        return {name: np.full_like(v, np.nan) for name, v in outputs.items()} if self.mode == "nan" else outputs

    def close(self) -> None:
        self._real.close()


def switchable(model: Model) -> tuple[Model, Switchable]:
    switch = Switchable(model.backend)
    return replace(model, backend=switch), switch


@contextmanager
def serving(*models: Model, **settings: Any) -> Iterator[httpx.Client]:
    """Serve these models on two slots from this process; yield a client once the server is ready."""
    application = Application(Settings(**{"slots": 2, "drain_seconds": 1.0, "grpc_port": 0, **settings}), models)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(application, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                until(lambda: application.ready or server.failure)
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def metric(client: httpx.Client, sample: str) -> float:
    """Return a sample of /metrics, its labels in alphabetical order; 0 if it is missing."""
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines())
    return next((float(value) for name, _, value in lines if name == sample), 0.0)


@contextmanager
def expect_ended_runs(client: httpx.Client, model: str, number: int) -> Iterator[None]:
    """Wait on exit until the `number` endless runs that start inside have been ended, so that their slots are free."""
    ended = f'tta_faults_total{{kind="ended",model="{model}"}}'
    before = metric(client, ended)
    yield
    until(lambda: metric(client, ended) == before + number)
