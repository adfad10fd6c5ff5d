"""The files of a loaded model may be overwritten, truncated and deleted: it goes on as before."""

import subprocess
import sys

import numpy as np
import pytest

from tests.support.external import PLACES, SHAPE, external, scorer, weights, write_scorer
from tta_server.backends.onnxruntime import FROM_MEMORY, OnnxRuntimeBackend
from tta_server.errors import ConfigError

IMAGES = np.ones((2, *SHAPE), np.float32)

PROCESS = """
import sys
from pathlib import Path
import numpy as np
from tta_server.backends.onnxruntime import OnnxRuntimeBackend

model, data = Path(sys.argv[1]), Path(sys.argv[2])
backend = OnnxRuntimeBackend(model)
images = np.ones((2, 3, 64, 64), np.float32)
first = backend.infer(images)["scores"]
for change in sys.argv[3:]:
    for path in {model, data}:
        if change == "truncate":
            path.open("wb").close()
        elif change == "overwrite":
            size = path.stat().st_size
            path.write_bytes(bytes(size))
        else:
            path.unlink()
    assert np.array_equal(backend.infer(images)["scores"], first), change
print(first[0].tolist())
"""
"""Prints the scores; a mapped file that is truncated ends the process with SIGBUS."""


@pytest.mark.parametrize("place", ["inside", *PLACES])
def test_a_loaded_model_does_not_depend_on_its_files(tmp_path, place):
    data = write_scorer(tmp_path / "m", [3, 1, 2], place)
    arguments = [tmp_path / "m" / "1" / "model.onnx", data, "overwrite", "truncate", "delete"]
    ran = subprocess.run(
        [sys.executable, "-c", PROCESS, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "[3.0, 1.0, 2.0]\n"), ran.stderr


@pytest.mark.parametrize("place", PLACES)
def test_without_the_method_of_newer_versions_a_private_copy_is_used(tmp_path, place, monkeypatch):
    monkeypatch.setattr("tta_server.backends.onnxruntime.FROM_MEMORY", f"no_{FROM_MEMORY}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = write_scorer(tmp_path / "m", [3, 1, 2], place, "deep/weights.bin")
    backend = OnnxRuntimeBackend(tmp_path / "m" / "1" / "model.onnx")
    data.open("wb").close()
    assert np.allclose(backend.infer(IMAGES)["scores"], [3, 1, 2])
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_private_copy_that_can_not_be_made_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write_scorer(tmp_path / "m", [3, 1, 2], "branch", "deep/weights.bin")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(
        ConfigError, match=r"needs a temporary copy of its external data, .*: No space left on device; free"
    ):
        OnnxRuntimeBackend(tmp_path / "m" / "1" / "model.onnx")


def test_several_files_and_offsets(tmp_path):
    """Two models that differ only in the offset of their weights in one file."""
    folder = tmp_path / "m"
    write_scorer(folder, [3, 1, 2], location="w.bin")
    content = weights([3, 1, 2]).tobytes()
    (folder / "1" / "w.bin").write_bytes(content + weights([6, 4, 5]).tobytes())
    model = folder / "1" / "model.onnx"
    model.write_bytes(scorer(external("w.bin", offset=len(content))).SerializeToString())
    assert np.allclose(OnnxRuntimeBackend(model).infer(IMAGES)["scores"], [6, 4, 5])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.unlink(), "weights are in 'model.onnx_data', which is missing"),
        (lambda data: data.open("wb").close(), "'model.onnx_data', which has 0 bytes; the model needs 49152"),
    ],
)
def test_a_file_that_is_missing_or_truncated_at_load_is_named(tmp_path, place, change, sentence):
    change(write_scorer(tmp_path / "m", [3, 1, 2], place))
    with pytest.raises(ConfigError, match=sentence):
        OnnxRuntimeBackend(tmp_path / "m" / "1" / "model.onnx")


def test_a_file_outside_the_folder_is_refused(tmp_path):
    write_scorer(tmp_path / "m", [3, 1, 2], location="../w.bin")
    with pytest.raises(ConfigError, match=r"weights are in '\.\./w\.bin', outside the folder"):
        OnnxRuntimeBackend(tmp_path / "m" / "1" / "model.onnx")
