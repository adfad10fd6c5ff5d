"""Exports a large and a small net as model folders of the server, and as ONNX files for sessions without it.

Weights are random, for only speed is measured. ResNet-50 and a net of 1.5 million parameters by timm and torch; in a
tiny run two nets of three layers, which need neither.
"""

import importlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.device_steps.card import has
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting

SIDE, CLASSES, OPSET = 224, 1000, 17
SPREAD = 2.0
"""Standard deviation of a net's scores."""
CHANNELS = {"tiny-large": 16, "tiny-small": 4}
POLICY = [
    "identity",
    "hflip",
    *({"shift": offset} for offset in ([8, 0], [-8, 0], [0, 8], [0, -8])),
    *(["hflip", {"shift": offset}] for offset in ([8, 0], [-8, 0])),
]
CONFIG: dict[str, Any] = {
    "task": "classification",
    "labels": [f"label{number}" for number in range(CLASSES)],
    "input": {
        "size": [SIDE, SIDE],
        "resize": 256,
        "color": "RGB",
        "scale": 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "output": {"kind": "logits"},
    "policy": {"name": "flip_and_shifts", "version": "1", "views": POLICY},
    "merge": "mean_probabilities",
    "symmetries": ["hflip"],
    "budget": {"default_ms": 1_000, "max_ms": 10_000, "min_views": 1},
    "stop": "all",
}
"""Of both nets, but for the backend."""


def run(setting: Setting, report: Report) -> None:
    if not setting.tiny and not has("torch", "timm"):
        raise SystemExit("ResNet-50 is exported with torch and timm, which are not installed; add --tiny")
    if not has("torch"):
        report.skip("nets of the torch backend", "torch is not installed")
    for name in setting.nets:
        start = time.perf_counter()
        figures = _tiny(setting, name) if setting.tiny else _real(setting, name)
        if has("torch"):
            report.attempt(f"{name} as a program of torch", partial(_write_pt2, setting, name))
        report.say(net=name, seconds=round(time.perf_counter() - start, 1), **figures)
    setting.done("nets").touch()


def write_folder(setting: Setting, backend: str, name: str) -> Path:
    """Write a net's tta.yaml; returns the folder of its model file."""
    folder = setting.folder(backend, name)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "tta.yaml").write_text(yaml.safe_dump(CONFIG | {"backend": setting.backend(backend)}))
    return folder / "1"


def _bare(setting: Setting, name: str, precision: str) -> Path:
    path = setting.bare_file(name, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _tiny(setting: Setting, name: str) -> dict[str, Any]:
    weights = _weights(CHANNELS[name])
    for precision in ("fp32", "fp16") if setting.is_cuda else ("fp32",):
        onnx.save(_tiny_onnx(weights, precision), _bare(setting, name, precision))
    onnx.save(_tiny_onnx(weights, "fp32"), write_folder(setting, "onnxruntime", name) / "model.onnx")
    return {"parameters": sum(value.size for value in weights.values())}


def _weights(channels: int) -> dict[str, NDArray[np.float32]]:
    """Of a convolution with a stride of 4, and of the layer that makes scores of its mean."""
    rng = np.random.default_rng(channels)
    return {
        "kernels": rng.normal(0, 0.2, (channels, 3, 4, 4)).astype(np.float32),
        "scores": rng.normal(0, 1, (CLASSES, channels)).astype(np.float32),
        "bias": rng.normal(0, 0.1, CLASSES).astype(np.float32),
    }


def _tiny_onnx(weights: dict[str, NDArray[np.float32]], precision: str) -> onnx.ModelProto:
    kind, dtype = (TensorProto.FLOAT16, np.float16) if precision == "fp16" else (TensorProto.FLOAT, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernels"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["vectors"]),
        helper.make_node("Gemm", ["vectors", "scores", "bias"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", kind, ["n", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", kind, ["n", CLASSES])
    values = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [image], [logits], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _tiny_torch(weights: dict[str, NDArray[np.float32]]) -> Any:
    torch = importlib.import_module("torch")
    nn, channels = torch.nn, len(weights["kernels"])
    conv, last = nn.Conv2d(3, channels, 4, 4, bias=False), nn.Linear(channels, CLASSES)
    with torch.no_grad():
        for parameter, value in ((conv.weight, "kernels"), (last.weight, "scores"), (last.bias, "bias")):
            parameter.copy_(torch.from_numpy(weights[value]))
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def load_torch(name: str) -> Any:
    """The net as a torch module on the CPU, with the same weights each time."""
    if name in CHANNELS:
        return _tiny_torch(_weights(CHANNELS[name]))
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    net = importlib.import_module("timm").create_model(name, pretrained=False).eval()
    with torch.no_grad():  # random weights give all classes the same probability, which would hide differences
        net.get_classifier().weight.mul_(SPREAD / net(torch.randn(2, 3, SIDE, SIDE)).std())
    return net


def _real(setting: Setting, name: str) -> dict[str, Any]:
    net = load_torch(name)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    file = write_folder(setting, "onnxruntime", name) / "model.onnx"
    _write_onnx(net, file, "cpu")
    _bare(setting, name, "fp32").write_bytes(file.read_bytes())
    if setting.is_cuda:
        _write_onnx(net.half().to("cuda"), _bare(setting, name, "fp16"), "cuda")
    return {"parameters": parameters, "file_mb": round(file.stat().st_size / 1e6, 1)}


def _write_onnx(net: Any, path: Path, device: str) -> None:
    """By the exporter that needs no packages beside torch."""
    torch = importlib.import_module("torch")
    image = torch.randn(2, 3, SIDE, SIDE, device=device, dtype=next(net.parameters()).dtype)
    torch.onnx.export(
        net,
        (image,),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        opset_version=OPSET,
        dynamo=False,
    )


def _write_pt2(setting: Setting, name: str) -> None:
    torch = importlib.import_module("torch")
    rows = torch.export.Dim("rows", min=1, max=1024)
    program = torch.export.export(load_torch(name), (torch.randn(2, 3, SIDE, SIDE),), dynamic_shapes=({0: rows},))
    torch.export.save(program, write_folder(setting, "torch", name) / "model.pt2")
