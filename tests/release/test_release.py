"""A release: one version in all files, a workflow of pinned actions, wheels with what they should hold."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import run
from tests.support.serving import PATIENCE, ROOT
from tta_server import __version__
from tta_server.cli.version import describe_checkout

MODELS = {"bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count"}
FEW_RIGHTS = {"contents": "read"}


@pytest.fixture(scope="module")
def workflow() -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())


def test_the_changelog_and_the_citation_have_the_version() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["cff-version"], citation["version"], citation["license"]) == ("1.2.0", __version__, "Apache-2.0")
    assert citation["authors"] == [{"name": "The tta-server maintainers"}]


def test_the_extra_models_takes_the_version_of_the_package_of_models() -> None:
    own = tomllib.loads((ROOT / "models" / "pyproject.toml").read_text())["project"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["models"] == [f"{own['name']}>=0.1,<1"]
    assert own["version"].startswith("0.")


def test_every_action_is_pinned_to_a_commit_and_rights_are_few(workflow: Any) -> None:
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)] == []
    assert workflow["permissions"] == FEW_RIGHTS
    writers = {name for name, job in workflow["jobs"].items() if job["permissions"].get("contents") == "write"}
    assert writers == {"release"}


def test_the_workflow_builds_every_target_of_the_image(workflow: Any) -> None:
    built = {entry["target"] for entry in workflow["jobs"]["images"]["strategy"]["matrix"]["include"]}
    named = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert built == {"cpu", "demo", "gpu", "score"}
    assert built <= named


def test_the_commit_of_a_folder_that_is_no_checkout_is_empty(tmp_path: Path) -> None:
    assert describe_checkout(tmp_path) == ""
    (tmp_path / ".git").mkdir()
    assert describe_checkout(tmp_path) == ""


def test_a_checkout_prints_its_commit() -> None:
    commit = describe_checkout(ROOT)
    assert run("--version").stdout == f"tta-server {__version__}" + (f", commit {commit}\n" if commit else "\n")


def test_the_commit_of_a_checkout_says_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--message", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert describe_checkout(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert describe_checkout(tmp_path) == f"{commit}-dirty"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from copies of what git has here."""
    folder = tmp_path_factory.mktemp("wheels")
    names = subprocess.check_output(["git", "ls-files", "-z", "tta_server", "models", "*.md"], cwd=ROOT, text=True)
    for name in [*filter(None, names.split("\0")), "pyproject.toml", "hatch_build.py", "LICENSE"]:
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    (folder / "source" / "tta_server" / "_commit").write_text("0123456789\n")
    sources = [folder / "source", folder / "source" / "models"]
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", *sources]
    subprocess.run(pip, check=True, timeout=2 * PATIENCE)
    found = {path.name.partition("-")[0]: path for path in (folder / "dist").iterdir()}
    assert set(found) == {"tta_server", "tta_server_models"}
    return found


@pytest.mark.slow
def test_the_wheel_of_the_server_is_small_and_holds_no_model(wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels["tta_server"]).namelist()
    assert [name for name in names if name.endswith((".onnx", ".jpg", ".png"))] == []
    assert {"tta_server/py.typed", "tta_server/cli/ping.py"} <= set(names)
    assert wheels["tta_server"].stat().st_size < 2_000_000
    models = {name.split("/")[1] for name in zipfile.ZipFile(wheels["tta_server_models"]).namelist() if "/1/" in name}
    assert models == MODELS


@pytest.mark.slow
def test_installed_it_serves_the_package_of_models_or_says_what_to_do(wheels: dict[str, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}

    def unpack(name: str) -> None:
        zipfile.ZipFile(wheels[name]).extractall(site)

    def installed(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tta_server", *arguments]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    unpack("tta_server")
    without = installed("models")
    assert without.returncode == 2
    assert without.stderr.strip().endswith("or try the bundled ones: pip install 'tta-server[models]'")
    unpack("tta_server_models")
    listed = installed("models")
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in MODELS)
    assert installed("--version").stdout == f"tta-server {__version__}, commit 0123456789\n"
