"""Folders of single models, as `serve --model NAME=DIR` takes them: ours, Triton's layout, one file."""

from collections.abc import Callable
from pathlib import Path

from onnx import save

from tests.support import exports
from tests.support.exports import VIT_CONFIG, VIT_PROCESSOR, with_metadata, write_export
from tests.support.onnx_models import classifier, write_model

CONFIG = """\
task: classification
labels: [red, green, blue]
input: {size: [8, 8]}
output: {kind: logits}
budget: {default_ms: 8000, max_ms: 20000}
"""
PBTXT = """\
platform: "onnxruntime_onnx"
max_batch_size: 8
input [{ name: "image" data_type: TYPE_FP32 dims: [3, 8, 8] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [3] }]
"""


def own(folder: Path) -> Path:
    """tta.yaml and 1/model.onnx."""
    return write_model(folder, classifier(), CONFIG)


def triton(folder: Path) -> Path:
    """Triton's layout; the files of Hugging Face beside the model say what config.pbtxt does not."""
    bare_triton(folder)
    write_export(folder / "1", classifier(), config_json=VIT_CONFIG, preprocessor_config_json=VIT_PROCESSOR)
    return folder


def bare_triton(folder: Path) -> Path:
    """Triton's layout, in which nothing states the task."""
    write_export(folder / "1", classifier())
    (folder / "config.pbtxt").write_text(PBTXT)
    return folder


def embedded(folder: Path) -> Path:
    """One file with the text of its tta.yaml, as `init --embed` writes it."""
    folder.mkdir()
    save(with_metadata(classifier(), {"tta.yaml": CONFIG}), folder / "weights.onnx")
    return folder


def ultralytics(folder: Path) -> Path:
    """One file with the metadata of Ultralytics."""
    folder.mkdir()
    save(with_metadata(exports.yolo(), exports.YOLO), folder / "yolo.onnx")
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "own": own,
    "triton": triton,
    "embedded": embedded,
    "ultralytics": ultralytics,
}
