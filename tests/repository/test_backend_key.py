"""The key `backend` of tta.yaml: a name, or a block."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.toys import faulty_model
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model


def load(folder: Path, backend: str) -> Model:
    model = faulty_model(folder / "toy")
    config = model / "tta.yaml"
    config.write_text(f"{config.read_text('utf-8')}backend: {backend}\n", "utf-8")
    return load_model(model)


def test_a_name_alone_is_the_name_of_the_block(tmp_path: Path) -> None:
    plain, block = load(tmp_path / "a", "onnxruntime"), load(tmp_path / "b", "{name: onnxruntime, device: cpu}")
    assert plain.config.backend == block.config.backend
    assert (plain.backend.device, plain.config.backend.threads) == ("cpu", 1)


def test_the_threads_of_a_run_do_not_change_what_it_gives(tmp_path: Path) -> None:
    one, two = load(tmp_path / "a", "onnxruntime"), load(tmp_path / "b", "{threads: 2}")
    batch = np.full((3, 3, 8, 8), 100, np.float32)
    assert np.array_equal(one.backend.infer(batch)["scores"], two.backend.infer(batch)["scores"])


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ("tensorrt", "backend is 'tensorrt'; it should be 'onnxruntime', 'torch' or 'triton'"),
        ("{device: gpu}", "backend.device: 'gpu' is no device; allowed: cpu, cuda, cuda:N for one of several, auto"),
        ("{precision: fp16}", "backend: precision is for a device; set device: cuda or auto, or remove it"),
        ("{threads: 0}", "backend.threads is 0; it should be a whole number of at least 1"),
        (
            "{thread: 2}",
            "unknown key backend.thread; known: name, device, threads, precision, max_batch, memory_mb, views",
        ),
        ("3", "backend is 3; it should be keys with values"),
    ],
)
def test_a_mistake_names_key_and_values(tmp_path: Path, backend: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, backend)
    assert str(raised.value).endswith(f"tta.yaml: {sentence}")
