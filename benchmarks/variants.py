"""A copy of a model folder with some keys of its tta.yaml changed."""

from pathlib import Path
from typing import Any

import yaml


def variant(source: Path, scratch: Path, **changes: dict[str, Any]) -> Path:
    """Write the copy into `scratch` under the same name; `changes` are by section, and the model file is linked."""
    config = yaml.safe_load((source / "tta.yaml").read_text())
    for section, keys in changes.items():
        config[section] = config.get(section, {}) | keys
    folder = scratch / source.name
    folder.mkdir(parents=True)
    (folder / "tta.yaml").write_text(yaml.safe_dump(config))
    (folder / "1").symlink_to((source / "1").resolve())
    return folder
