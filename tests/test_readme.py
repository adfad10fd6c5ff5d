"""Every command and snippet of the README and the docs does what it says; links and paths exist."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.newcomer import write_files
from tests.support.onnx_models import detector, write_model
from tests.support.references import MODELS
from tests.support.serving import Server, until
from tta_server.repository.loader import load_model
from tta_server.tasks.scores.merging import MERGES
from tta_server.views.spec import PRIMITIVES

ROOT = MODELS.parent


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


README, USAGE, PROTOCOL = "README.md", "docs/usage.md", "docs/protocol.md"
PAGES = [
    *(ROOT / page for page in (README, "CHANGELOG.md", "benchmarks/README.md", "loadtest/README.md")),
    *(page for folder in ("docs", "models") for page in sorted((ROOT / folder).rglob("*.md"))),
]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "helm").rglob("*.md"))]
TOO_LATE = ('"deadline_exceeded"', '"overloaded"', "give a budget of at least")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which the paths of the pages exist and their commands may write."""
    (tmp_path / "models").symlink_to(MODELS)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.timing
@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="the commands need curl")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=pytest.mark.slow) if "simulate" in block else block
        for page in (README, USAGE, PROTOCOL)
        for block in blocks("sh", page)
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
        ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=240)
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
        assert (checkout / name).is_dir() or (checkout / name).stat().st_size > 100
    if " score " in block:
        assert "6 of 6, 0 failed" in done.stderr
        assert (checkout / "scores" / "results" / "part-00000.parquet").is_file()


def steps() -> list[tuple[str, str]]:
    """Commands and snippets of "Your own model" in their order, each with the output that is shown for it."""
    section = (ROOT / README).read_text().partition("## Your own model")[2].partition("### Other models")[0]
    found = re.findall(r"^ +```(sh|python|text)\n(.*?)^ +```", section, re.DOTALL | re.MULTILINE)
    shown = [(language, textwrap.dedent(text)) for language, text in found]
    assert [language == "text" for language, _ in shown] == [False, True] * (len(shown) // 2)
    runs = [("bash" if language == "sh" else "python", text) for language, text in shown[::2]]
    return [(f"{kind}\n{text}", output) for (kind, text), (_, output) in zip(runs, shown[1::2], strict=True)]


def as_words(output: str) -> list[str]:
    """Output without the frames of tables, which grow with what they hold, and without milliseconds."""
    words = re.sub("[\u2500-\u257f]", " ", output).split()
    return ["ms" if re.fullmatch(r"\d+\.\d", word) else word for word in words]


@pytest.mark.skipif(not shutil.which("bash"), reason="the commands need bash")
def test_the_steps_of_your_own_model(tmp_path: Path) -> None:
    """In one folder, one after another, with the output that the README shows."""
    write_files(tmp_path)
    found = steps()
    assert len(found) == 7
    for step, output in found:
        kind, _, text = step.partition("\n")
        text = text.replace(".venv/bin/tta-server", f"{sys.executable} -m tta_server")
        command = ["bash", "-e", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "100"}
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout
        assert as_words(done.stdout) == as_words(output), f"{text}\n{done.stdout}"
    assert (tmp_path / "boxes.png").stat().st_size > 100


@pytest.mark.parametrize(
    ("block", "says"),
    [
        *zip(blocks("python", README), (r"\(10,\) t-shirt 10\n",), strict=True),
        *zip(blocks("python", USAGE), (r"t-shirt [1-8]\n", r"\(\d+, 4\) \['model', 'prediction', .*\]\n"), strict=True),
        *zip(blocks("python", PROTOCOL), (r"\(1, 256, 320\)\n",), strict=True),
    ],
    ids=["load", "grpc", "load with options", "http"],
)
def test_python_runs(block: str, says: str, server: Server, checkout: Path) -> None:
    script = block.replace("127.0.0.1:8001", server.grpc).replace("127.0.0.1:8000", server.url.partition("//")[2])
    done = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(says, done.stdout)


def test_the_answer_shown_has_the_fields_of_a_real_one(server: Server) -> None:
    (shown,) = blocks("json", README)
    with server.client() as http:
        image = (MODELS / "clothing" / "sample.jpg").read_bytes()
        real = http.post("/v1/models/clothing/predict", content=image).json()
    example = json.loads(shown)
    assert list(example) == list(real)
    assert list(example["receipt"]) == list(real["receipt"])
    assert example["prediction"]["top"][0]["label"] == real["prediction"]["top"][0]["label"]


def test_the_yaml_shown_loads(tmp_path: Path) -> None:
    (shown,) = blocks("yaml", README)
    folder = tmp_path / "mine"
    shutil.copytree(MODELS / "nuclei" / "1", folder / "1")
    (folder / "tta.yaml").write_text(shown)
    assert len(load_model(folder).policy.views) == 8


def test_the_model_folder_shown_loads(tmp_path: Path) -> None:
    (shown,) = blocks("yaml", USAGE)
    folder = write_model(tmp_path / "mine", detector(), shown)
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    assert load_model(folder).config.labels == ("red", "green", "blue")


def test_the_docs_name_every_primitive_and_merge() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    assert not [name for name in (*PRIMITIVES, *MERGES) if f"`{name}`" not in text]


def without_code(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings() -> None:
    dead = []
    for page in LINKED:
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
                dead.append((page.name, link))
    assert not dead


def test_paths_in_the_docs_exist() -> None:
    """Those in code style that begin with a folder of this repository; <name> stands for any name."""
    folders = "tta_server|tests|benchmarks|loadtest|models|docs|dashboards|helm|docker|compose|requirements"
    found = [
        (page.name, path)
        for page in LINKED
        for path in re.findall(rf"`((?:{folders})/[\w/.-]*)`", page.read_text())
        if not (ROOT / path).exists()
    ]
    assert not found


def test_structure_has_every_folder_of_the_package() -> None:
    text = (ROOT / "docs" / "structure.md").read_text()
    packages = [path.parent.relative_to(ROOT) for path in (ROOT / "tta_server").rglob("__init__.py")]
    assert not [path for path in packages if path.name != "tta_server" and f"| `{path}/` |" not in text]
    assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == list("12345678")


def test_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path.name for path in folder.glob("0*.md"))
    assert re.findall(r"\]\((0[\w-]+\.md)\)", (folder / "README.md").read_text()) == pages
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    heads = ["## Context", "## Decision", "## Figures", "## Consequences"]
    assert not [name for name in pages if re.findall(r"^## .*", (folder / name).read_text(), re.MULTILINE) != heads]
