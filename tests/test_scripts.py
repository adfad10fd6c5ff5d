"""The benchmarks and load tests fit the package: each script can be imported."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS_LOCUST = {"loadtest.locustfile"}
SCRIPTS = sorted(
    f"{folder}.{path.stem}"
    for folder in ("benchmarks", "loadtest")
    for path in (ROOT / folder).glob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in NEEDS_LOCUST])
def test_a_script_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__
