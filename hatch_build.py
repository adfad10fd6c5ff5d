"""Writes the commit into wheels and sdists, for `tta-server --version`."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "tta_server/_commit"


class CommitHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the file; without git, one that an sdist or the image's build wrote is packed with the package."""
        root = Path(self.root)
        commit = runpy.run_path(str(root / "tta_server/cli/version.py"))["describe_checkout"](root)
        if commit and version != "editable":
            file = root / "build" / "_commit"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{commit}\n", "ascii")
            build_data["force_include"][str(file)] = NAME
