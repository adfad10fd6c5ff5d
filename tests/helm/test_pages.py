"""The notes of an installation and docs/kubernetes.md: their commands and values work."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.charts import (
    CHART,
    HELM,
    ROOT,
    notes,
    one,
    refusal,
    render,
)
from tests.support.serving import PATIENCE, Server

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HELM.is_file(), reason="needs Helm: make helm"),
]
SAMPLE = ROOT / "models" / "clothing" / "sample.jpg"


# ---- notes ----


def test_the_commands_of_the_notes_work(client: httpx.Client, server: Server, tmp_path: Path) -> None:
    text = notes("--set", "test.model=clothing", folder=tmp_path)
    listing, predict = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
    for command, expected in ((listing, "models"), (predict, "receipt")):
        here = command.replace("http://127.0.0.1:8000", server.url).replace("photo.jpg", str(SAMPLE))
        done = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=PATIENCE)
        assert expected in json.loads(done.stdout)
    assert "Requests need no key" in text


def test_the_notes_name_keys_and_tls(tmp_path: Path) -> None:
    text = notes("--values", CHART / "ci" / "ingress-tls-keys-values.yaml", folder=tmp_path)
    assert 'curl --cacert CA.CRT -H "Authorization: Bearer $KEY" https://127.0.0.1:8000/v1/models\n' in text
    assert "Requests need no key" not in text


# ---- the page ----

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
COMMANDS = re.findall(r"^helm (?:install|upgrade) tta helm/tta-server((?:\\\n|.)*)$", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_has_commands_and_values() -> None:
    assert (len(COMMANDS), len(BLOCKS)) == (3, 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_work(command: str) -> None:
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if word != "--reuse-values"]
    assert one(render(*words), "Deployment")


@pytest.mark.parametrize("block", BLOCKS)
def test_values_of_the_page_work(block: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(block)
    assert one(render("--values", tmp_path / "values.yaml"), "Deployment")


def test_the_sentence_of_the_page_is_the_charts() -> None:
    assert f"```text\n{refusal('--set', 'models.source=pvc')}\n```" in PAGE
