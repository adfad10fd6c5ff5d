"""The cases of `on_ray.py` on a real cluster of two nodes, in a network namespace of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clusters import UNSHARE, ray_environment, why_not

CASES = Path(__file__).with_name("on_ray.py")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(900)
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_runs_on_two_nodes_leave_what_one_machine_leaves() -> None:
    with ray_environment() as environment:
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-q",
            "-n",
            "0",
            "-W",
            "ignore",
            "--durations=0",
        ]
        done = subprocess.run(
            [*UNSHARE, *words, str(CASES)], capture_output=True, text=True, env=os.environ | environment
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
