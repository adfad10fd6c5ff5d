"""One recorded contract: an export as a tool writes it, and the exact answer for one image, plain and with flips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from tests.support.commands import check_mistake, run
from tests.support.exports import with_metadata, write_export
from tta_server import load
from tta_server.serving.answer import Answer

BUDGET_MS = 60_000
FLIPS = """\
symmetries: [hflip, vflip]
budget: {default_ms: 60000, max_ms: 60000}
"""
"""What a test adds to the tta.yaml that `init` wrote, to ask for flips too."""


class Expected(Protocol):
    """What an answer should be; raises AssertionError."""

    def check(self, answer: Answer) -> None: ...


@dataclass(frozen=True)
class Contract:
    """An export whose model answers with what is in `image`, uint8 (H, W, 3).

    `files` lie beside the model file, as `write_export` takes them. `typed` are the keys of tta.yaml that a user has to
    state beyond the file, and `options` further arguments of `init`. `says` is a part of what `init` prints.
    """

    name: str
    model: Callable[[], ModelProto]
    image: NDArray[np.uint8]
    expected: Expected
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    says: str = ""

    def write(self, folder: Path) -> Path:
        return write_export(folder, with_metadata(self.model(), dict(self.metadata)), **self.files)

    def arguments(self) -> list[str]:
        return [*self.options, *(part for key, value in self.typed.items() for part in ("--set", f"{key}={value}"))]

    def check(self, folder: Path) -> None:
        """Run `init`, load what it wrote, and hold its answers against the expected one."""
        models = folder / "models"
        done = run("init", self.write(folder / "export"), "--models", models, "--name", "mine", *self.arguments())
        assert done.returncode == 0, done.stderr
        assert self.says in done.stdout + done.stderr
        written = models / "mine" / "tta.yaml"
        written.write_text(written.read_text() + FLIPS)
        with load(models / "mine") as loaded:
            plain = loaded.predict(self.image, budget_ms=BUDGET_MS, policy="plain")
            flipped = loaded.predict(self.image, budget_ms=BUDGET_MS, policy="flips", min_views="all")
        assert [len(answer.receipt.views) for answer in (plain, flipped)] == [1, 4]
        self.expected.check(plain)
        self.expected.check(flipped)


@dataclass(frozen=True)
class Refused:
    """An export that can't be served right: `init` ends with a sentence that says why, and writes nothing."""

    name: str
    model: Callable[[], ModelProto]
    sentence: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    def check(self, folder: Path) -> None:
        file = write_export(folder / "export", with_metadata(self.model(), dict(self.metadata)), **self.files)
        found = check_mistake(run("init", file, "--models", folder / "models", "--name", "mine"))
        assert self.sentence in found, found
        assert not (folder / "models").exists()


@dataclass(frozen=True)
class Asked:
    """An export of which a value can't be known: `init` asks for it, with what is allowed, and guesses nothing."""

    name: str
    model: Callable[[], ModelProto]
    question: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)

    def check(self, folder: Path) -> None:
        file = write_export(folder / "export", with_metadata(self.model(), dict(self.metadata)), **self.files)
        stated = [part for key, value in self.typed.items() for part in ("--set", f"{key}={value}")]
        done = run("init", file, "--models", folder / "models", "--name", "mine", *stated)
        assert done.returncode == 1, done.stdout + done.stderr
        assert self.question in done.stderr


Entry = Contract | Refused | Asked
