"""What Dockerfile and compose.yaml state; `benchmarks/image.py` builds the image and runs it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.serving import PATIENCE, ROOT

Stage = tuple[str, str, list[str]]
"""The stage's name, its base and its instructions."""


def stages() -> list[Stage]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    starts = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        _, base, _, name = lines[start].split()
        found.append((name, base, lines[start + 1 : end]))
    return found


def effective(target: str) -> list[str]:
    """The instructions of a target, those of the stages that it is made from first."""
    known = {name: (base, instructions) for name, base, instructions in stages()}
    base, instructions = known[target]
    return (effective(base) if base in known else [base]) + instructions


def last(target: str, word: str) -> str:
    return [line.removeprefix(word).strip() for line in effective(target) if line.startswith(word)][-1]


@pytest.mark.deploy
def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint")
    command = [program, str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "demo", "gpu"])
def test_a_target_that_serves_says_how_it_runs(target: str) -> None:
    assert last(target, "USER") == "10001:10001"
    assert last(target, "ENTRYPOINT") == '["tta-server"]'
    assert last(target, "CMD") == '["serve"]'
    assert last(target, "EXPOSE") == "8000 8001"
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    assert last(target, "HEALTHCHECK").endswith('CMD ["tta-server", "ping"]')
    assert "TTA_HOST=0.0.0.0 TTA_MODELS=/models" in " ".join(effective(target))
    assert effective(target)[0] == "${BASE}"


def test_the_target_that_scores_runs_score() -> None:
    assert (last("score", "ENTRYPOINT"), last("score", "USER")) == ('["tta-server", "score"]', "10001:10001")


def test_the_default_target_is_the_cpu_and_holds_no_models() -> None:
    assert stages()[-1][0] == "cpu"
    assert not any("COPY models" in line for line in effective("cpu"))


def test_every_base_has_a_version_and_every_install_is_hashed() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=\S+:3\.12-\S+$", text, re.MULTILINE)
    assert "latest" not in text
    script = (ROOT / "docker" / "install.sh").read_text()
    installs = [line for line in (text + script).splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_every_lock_that_a_target_names_is_there() -> None:
    runs = [line for _, _, lines in stages() for line in lines if line.startswith("RUN docker/install.sh")]
    locks = {lock for line in runs for lock in line.split()[2:]}
    assert locks == {"run", "otel", "compile", "gpu", "ray"}
    assert all("--hash=sha256:" in (ROOT / "requirements" / f"{lock}.txt").read_text() for lock in locks)


def test_what_the_build_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for _, _, lines in stages() for line in lines if re.match(r"COPY (?!--from)", line)]
    sources = {source for words in copies for source in words}
    assert {source.partition("/")[0] for source in sources} == kept
    assert all((ROOT / source).exists() for source in sources)


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_runs_the_server_without_rights(compose: Any) -> None:
    server = compose["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["tmpfs"] == ["/tmp"]
    assert any(name == server["build"]["target"] for name, *_ in stages())
    assert server["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"]


def test_compose_pins_what_it_pulls_and_mounts_what_is_there(compose: Any) -> None:
    services = compose["services"]
    assert all(re.search(r":v?\d+\.\d+\.\d+$", services[name]["image"]) for name in ("prometheus", "grafana"))
    mounts = [mount.split(":")[0] for service in services.values() for mount in service["volumes"]]
    paths = [mount for mount in mounts if mount.startswith("./")]
    assert len(paths) == 5
    if not (ROOT / "dashboards").is_dir():
        paths = [path for path in paths if not path.startswith("./dashboards/")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_prometheus_scrapes_the_server_and_keeps_exemplars(compose: Any) -> None:
    services = compose["services"]
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]
    config = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    mounted = [mount.split(":")[1] for mount in services["prometheus"]["volumes"]]
    assert set(config["rule_files"]) <= set(mounted)
    provisioning = ROOT / "compose" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tta-server.yaml").read_text())["providers"]
    dashboard = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert dashboard == f"{provider['options']['path']}/tta-server.json"
    assert any(mount.split(":")[1] == dashboard for mount in services["grafana"]["volumes"])
