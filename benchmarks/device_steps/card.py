"""The machine that figures are of: its card's name, and the memory that is used there."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.server import memory_mb


def card(device: str) -> str:
    """The GPU's name, or the CPU's. Ends the program where there is no GPU."""
    return _query("name") if device == "cuda" else _processor()


def used_mb(device: str) -> float:
    """Memory in use, in MB: of the whole GPU, or of this process."""
    return float(_query("memory.used")) * 1.048576 if device == "cuda" else memory_mb(os.getpid())


def has(*modules: str) -> bool:
    """Whether all these modules are installed; none is imported."""
    return all(importlib.util.find_spec(name) for name in modules)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{found}, {len(os.sched_getaffinity(0))} cores"


def _query(field: str) -> str:
    if shutil.which("nvidia-smi") is None:
        raise SystemExit("there is no nvidia-smi, and so no GPU; rehearse with --device cpu --tiny")
    command = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nvidia-smi finds no GPU: {(done.stdout + done.stderr).strip()}")
    return done.stdout.strip()
