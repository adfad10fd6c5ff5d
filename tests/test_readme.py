"""Every command and snippet of the README does what it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.references import MODELS
from tests.support.serving import Server, until
from tta_server.repository.loader import load_model
from tta_server.tasks.scores.merging import MERGES
from tta_server.views.spec import PRIMITIVES

ROOT = MODELS.parent


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


PROTOCOL = "docs/protocol.md"
TOO_LATE = ('"deadline_exceeded"', '"overloaded"', "give a budget of at least")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which the README's paths exist and its commands may write."""
    (tmp_path / "models").symlink_to(MODELS)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.timing
@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="the README's commands need curl")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=pytest.mark.slow) if "simulate" in block else block
        for block in (*blocks("sh"), *blocks("sh", PROTOCOL))
    ],
)
def test_commands_run(block: str, server: Server, checkout: Path) -> None:
    """With budgets that a busy machine keeps."""
    block = re.sub(r"budget_ms=\d+", "budget_ms=10000", block)
    script = block.replace("http://127.0.0.1:8000", server.url).replace(
        ".venv/bin/tta-server", f"{sys.executable} -m tta_server"
    )
    command = ["bash", "-e", "-c", script.replace("curl ", "curl --silent --show-error ")]

    def run() -> subprocess.CompletedProcess[str] | None:
        """None where a busy machine has not kept a budget, or known that it would not."""
        ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=100)
        return None if any(words in ran.stdout for words in TOO_LATE) else ran

    done = until(run)
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout
    if "event-stream" in block:
        assert "event: answer" in done.stdout
    elif "/quote" in block:
        assert json.loads(done.stdout)["planned"] == 8
    elif "/infer" in block:
        assert json.loads(done.stdout)["outputs"][1]["data"] == ["t-shirt"]
    elif "curl" in block and "-o " not in block:
        assert json.loads(done.stdout)["receipt"]["views"]
    for name in re.findall(r"(?:-o|--out) (\S+)", block):
        assert (checkout / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("block", "says"),
    [
        *zip(blocks("python"), (r"t-shirt [1-8]\n", r"t-shirt 10\n"), strict=True),
        *zip(blocks("python", PROTOCOL), (r"\(1, 256, 320\)\n",), strict=True),
    ],
    ids=["grpc", "load", "http"],
)
def test_python_runs(block: str, says: str, server: Server, checkout: Path) -> None:
    script = block.replace("127.0.0.1:8001", server.grpc).replace("127.0.0.1:8000", server.url.partition("//")[2])
    done = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(says, done.stdout)


def test_the_answer_shown_has_the_fields_of_a_real_one(server: Server) -> None:
    (shown,) = blocks("json")
    with server.client() as http:
        image = (MODELS / "clothing" / "sample.jpg").read_bytes()
        real = http.post("/v1/models/clothing/predict", content=image).json()
    example = json.loads(shown)
    assert list(example) == list(real)
    assert list(example["receipt"]) == list(real["receipt"])
    assert example["prediction"]["top"][0]["label"] == real["prediction"]["top"][0]["label"]


def test_the_yaml_shown_loads(tmp_path: Path) -> None:
    (shown,) = blocks("yaml")
    folder = tmp_path / "mine"
    shutil.copytree(MODELS / "nuclei" / "1", folder / "1")
    (folder / "tta.yaml").write_text(shown)
    assert len(load_model(folder).policy.views) == 8


def test_the_docs_name_every_primitive_and_merge() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    assert not [name for name in (*PRIMITIVES, *MERGES) if f"`{name}`" not in text]


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    dead = [
        (page.name, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not dead
