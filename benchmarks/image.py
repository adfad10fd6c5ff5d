"""The image: built by buildah from a clean clone of this commit, and run read-only without root, shell and own models.

Prints size, hadolint's findings, the SBOM, answers over HTTP and gRPC, health checks and how it ends; exits with 1 if a
target is missed. Needs root, buildah and, without --base, debootstrap: it then makes a base of Debian 12 and of the
Python of --python, which has to be self-contained, as those of pyenv are.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.server import MODELS, ROOT
from tta_server import __version__

MOST_MB = {"cpu": 420}
"""Targets of the size above the base."""
LIBRARIES = (
    "ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,"
    "netbase,tzdata,zlib1g"
)
"""What Python needs of Debian."""
PROBE = """
import os
try:
    open("/probe", "w")
except OSError as error:
    print(os.getuid(), os.access("/bin/sh", os.X_OK), error.strerror)
"""
EXIT_SECONDS = 30


class Report:
    """A table of figures and targets; `met` is false once one was missed."""

    def __init__(self) -> None:
        self.table = Table("figure", "found", "target", "met")
        self.met = True

    def add(self, name: str, found: Any, target: str, is_met: bool) -> None:
        self.met &= is_met
        self.table.add_row(name, escape(str(found)), target, "yes" if is_met else "[red]missed")


class Buildah:
    """Builds and mounts images in a storage of its own."""

    def __init__(self, storage: Path, volumes: list[str]) -> None:
        self._command = ["buildah", "--root", str(storage / "store"), "--runroot", str(storage / "run")]
        self._volumes = [word for volume in volumes for word in ("--volume", volume)]

    def run(self, *arguments: str | Path) -> str:
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        command = [*self._command, *map(str, arguments)]
        return subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, text=True).stdout.strip()

    def build(self, folder: Path, tag: str, *arguments: str) -> None:
        options = [
            "--quiet",
            "--format=docker",
            "--layers=false",
            "--pull-never",
            "--network=host",
            "--isolation=chroot",
        ]
        self.run("bud", *options, *self._volumes, *arguments, "--tag", tag, folder)

    def config(self, tag: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", tag))["Docker"]["config"]
        return found

    @contextlib.contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        container = self.run("from", "--pull-never", tag)
        try:
            yield Path(self.run("mount", container))
        finally:
            self.run("rm", container)


def make_base(buildah: Buildah, python: Path, scratch: Path) -> str:
    """Debian 12 with a Python in /usr/local; its name."""
    root = scratch / "root"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={LIBRARIES}", "bookworm", root], check=True)
    shutil.copytree(python, root / "usr/local", symlinks=True, dirs_exist_ok=True)
    subprocess.run(["chroot", root, "ldconfig"], check=True)
    context = scratch / "base"
    context.mkdir()
    subprocess.run(["tar", "-C", root, "--exclude=__pycache__", "-cf", context / "root.tar", "."], check=True)
    path = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
    (context / "Dockerfile").write_text(f"FROM scratch\nADD root.tar /\nENV PATH={path}\n")
    buildah.build(context, "localhost/base")
    return "localhost/base"


def clone(scratch: Path) -> tuple[Path, str]:
    """What is committed here, without anything else; and its commit."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, scratch / "clone"], check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=scratch / "clone", text=True).strip()
    return scratch / "clone", commit


def megabytes(root: Path) -> float:
    files = (path.lstat() for path in root.rglob("*") if path.is_file() or path.is_symlink())
    return sum({each.st_ino: each.st_size for each in files}.values()) / 1e6


@dataclass(frozen=True)
class Container:
    """A mounted image, run as its own configuration says."""

    root: Path
    config: dict[str, Any]

    def command(self, *words: str, models: Path | None = None, **environment: str) -> list[str]:
        own = dict(entry.split("=", 1) for entry in self.config["Env"]) | environment
        about = json.dumps([self.config["User"], own])
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable]
        return [
            *isolated,
            str(Path(__file__).with_name("contained.py")),
            str(self.root),
            str(models or ""),
            about,
            *words,
        ]

    def output(self, *words: str, **environment: str) -> str:
        done = subprocess.run(self.command(*words, **environment), capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip()


@contextlib.contextmanager
def served(container: Container, models: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The image's own command on free ports, with its HTTP and gRPC address; killed at the end if it still runs."""
    words = [*container.config["Entrypoint"], *container.config["Cmd"]]
    command = container.command(*words, models=models, TTA_PORT="0", TTA_GRPC_PORT="0")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        printed: list[str] = []
        try:
            for line in process.stderr:
                printed.append(line)
                if found := re.search(r"ready: http://[^:\s]+:(\d+).*gRPC on port (\d+)", line):
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield process, f"http://127.0.0.1:{found[1]}", f"127.0.0.1:{found[2]}"
                    return
            raise SystemExit(f"the container did not start:\n{''.join(printed)}")
        finally:
            process.kill()


def ask_http(url: str, image: bytes) -> str:
    question = urllib.request.Request(f"{url}/v1/models/clothing/predict?budget_ms=30000", image)
    with urllib.request.urlopen(question, timeout=60) as answer:
        label: str = json.load(answer)["prediction"]["top"][0]["label"]
    return label


def ask_grpc(address: str, image: bytes) -> str:
    with contextlib.closing(tritonclient.grpc.InferenceServerClient(address)) as client:
        tensor = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[image]], np.object_))
        metadata = client.get_model_metadata("clothing", as_json=True)
        scores = client.infer("clothing", [tensor], parameters={"budget_ms": 30_000}).as_numpy("PROBABILITIES")
    return f"{metadata['name']}, class {scores[0].argmax()} at {scores.max():.3f}"


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Sends the signal to process 1 of the container; the exit status."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), number)
    return process.wait(EXIT_SECONDS)


def check_running(report: Report, container: Container) -> None:
    image = (MODELS / "clothing" / "sample.jpg").read_bytes()
    health = container.config["Healthcheck"]["Test"][1:]
    report.add(
        "health check without a server", found := container.output(*health), "no server answers", "no s" in found
    )
    with served(container, MODELS) as (process, url, grpc):
        report.add("over HTTP", found := ask_http(url, image), "t-shirt", found == "t-shirt")
        report.add("over gRPC", found := ask_grpc(grpc, image), "clothing, class 9", "class 9" in found)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = container.output(*health, TTA_PORT=url.rpartition(":")[2])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        report.add(" ".join(health), found, "is alive", found.endswith("is alive"))
        report.add("the same, with mounts and Python's start", f"{seconds:.2f} core-s", "under 0.50", seconds < 0.5)
        status = end(process, signal.Signals[container.config["StopSignal"]])
        report.add(f"ends at {container.config['StopSignal']}", f"exit status {status}", "0", status == 0)


def check_contents(report: Report, container: Container, target: str, commit: str) -> None:
    probe = container.output("/opt/tta-server/bin/python", "-c", PROBE)
    report.add("user, shell, writing", probe, "10001 False Read-only", probe.startswith("10001 False Read-only"))
    version = container.output(*container.config["Entrypoint"], "--version")
    report.add("tta-server --version", version, "version and commit", version.endswith(f", commit {commit}"))
    without = container.output(*container.config["Entrypoint"], "serve", TTA_MODELS="/none").splitlines()[-1]
    report.add("serve without models", without, "one sentence", without.startswith("error: /none: no such folder"))
    listed = json.loads((container.root / "opt/tta-server/sbom.cdx.json").read_text())["components"]
    names = {each["name"] for each in listed}
    expected = {"tta-server", "numpy", "onnxruntime-gpu" if target == "gpu" else "onnxruntime"}
    report.add("SBOM", f"{len(names)} packages", f"with {', '.join(sorted(expected))}", expected <= names)


def build(buildah: Buildah, scratch: Path, options: argparse.Namespace, report: Report) -> str:
    """Builds the target from a clone, and lints its Dockerfile; the commit."""
    source, commit = clone(scratch)
    arguments = {"BASE": options.base, "REVISION": commit, "VERSION": __version__}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    buildah.build(source, options.tag, "--target", options.target, *words)
    lint = subprocess.run(["hadolint", source / "Dockerfile"], capture_output=True, text=True, check=False)
    report.add("hadolint", lint.stdout.strip() or "no findings", "no findings", lint.returncode == 0)
    return commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu", choices=["cpu", "demo", "gpu"])
    parser.add_argument("--base", help="an image in the storage; default: one is made")
    parser.add_argument("--python", type=Path, default=Path(sys.base_prefix), help="prefix of the base's Python")
    parser.add_argument("--storage", type=Path, help="folder of images, kept; default: a temporary one")
    parser.add_argument("--volume", action="append", default=[], help="mounted in builds, like a CA: HOST:CONTAINER:ro")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options.tag = f"localhost/tta-server:{options.target}"
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        buildah = Buildah(options.storage or Path(folder), options.volume)
        options.base = options.base or make_base(buildah, options.python, Path(folder))
        commit = build(buildah, Path(folder), options, report)
        with buildah.mounted(options.base) as base, buildah.mounted(options.tag) as root:
            above, most = megabytes(root) - megabytes(base), MOST_MB.get(options.target)
            report.add(
                f"{options.target} above its base", f"{above:.0f} MB", f"{most or 'no'} MB", above <= (most or above)
            )
            container = Container(root, buildah.config(options.tag))
            check_contents(report, container, options.target, commit)
            check_running(report, container)
    Console(width=150).print(report.table)
    sys.exit(not report.met)


if __name__ == "__main__":
    main()
