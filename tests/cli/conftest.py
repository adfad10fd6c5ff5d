"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest

from tests.support import pictures


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(pictures.jpeg(seed=1))
    return path
