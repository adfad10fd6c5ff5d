"""`tta-server export-triton`."""

import re
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import triton_to_np_dtype

from tests.support.commands import check_mistake, run
from tests.support.ensembles import Ensemble, read_config
from tests.support.references import MODELS


def test_it_writes_a_repository_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "triton"
    done = run("export-triton", "clothing", "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "clothing", "clothing_front", "clothing_tail", "clothing_tta",
    ]  # fmt: skip
    assert f"{out / 'README.md'}: how to call clothing_tta" in done.stdout
    page = (out / "README.md").read_text()
    assert all(word in page for word in ("Budgets", "Stop rules", "Admission", "`owner`", "64 rows"))


class LocalServer:
    """Stands for the gRPC client: its requests are answered by the repository's files."""

    repository: Path

    def __init__(self, url: str) -> None:
        self.url = url

    def infer(self, name: str, inputs: list[tritonclient.grpc.InferInput], client_timeout: float) -> "LocalServer":
        given = {
            each.name(): np.frombuffer(each._get_content(), triton_to_np_dtype(each.datatype())).reshape(each.shape())
            for each in inputs
        }
        self._outputs = Ensemble(self.repository, name).infer(given)
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return self._outputs[name]


@pytest.mark.parametrize(("model", "policy"), [("clothing", None), ("nuclei", "flips"), ("mouse", None)])
def test_the_program_of_the_page_runs(
    tmp_path: Path, model: str, policy: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run("export-triton", model, "--out", tmp_path, *(["--policy", policy] if policy else []))
    assert done.returncode == 0, done.stderr
    (program,) = re.findall(r"^```python\n(.*?)^```", (tmp_path / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert f"policy={policy!r}" in program
    (sample,) = (MODELS / model).glob("sample.*")
    LocalServer.repository = tmp_path
    monkeypatch.setattr(tritonclient.grpc, "InferenceServerClient", LocalServer)
    exec(compile(program.replace("photo.jpg", str(sample)), "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_a_folder_that_is_not_empty_needs_force(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = check_mistake(run("export-triton", "cifar10", "--out", tmp_path))
    assert f"{tmp_path}: is not empty; give another folder, or --force" in found
    assert run("export-triton", "cifar10", "--out", tmp_path, "--force").returncode == 0
    assert run("export-triton", "cifar10", "--out", tmp_path, "--force").returncode == 0
    assert (tmp_path / "other").is_dir()
    assert read_config(tmp_path, "cifar10_tta").platform == "ensemble"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["coats"], "there is no model 'coats'"),
        (["clothing", "--policy", "nine"], "nine"),
        (["clothing", "--models", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    out = tmp_path / "triton"
    assert sentence in check_mistake(run("export-triton", *arguments, "--out", out))
    assert not out.exists()


def test_the_folder_of_models_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "clothing").symlink_to(MODELS / "clothing")
    found = check_mistake(run("export-triton", "clothing", "--models", tmp_path, "--out", tmp_path, "--force"))
    assert "is no model that was exported" in found
