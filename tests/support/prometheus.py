"""The Prometheus that `make prometheus` fetches: its promtool, and the server over a folder of its own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.remote import free_port

ROOT = Path(__file__).parents[2]
BINARIES = ROOT / "build" / "prometheus" / "usr" / "bin"
PROMTOOL = BINARIES / "promtool"
PROMETHEUS = BINARIES / "prometheus"


def promtool(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, text=True, timeout=120)


@contextmanager
def prometheus(binary: str | Path, target: str, folder: Path, rules: Path | None = None) -> Iterator[str]:
    """A Prometheus that scrapes the target (host:port) twice a second and evaluates the rules; yields its address."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "scrape_configs": [{"job_name": "tta", "static_configs": [{"targets": [target]}]}],
        "rule_files": [str(rules)] if rules else [],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    options = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    )
    process = subprocess.Popen([binary, *options])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
