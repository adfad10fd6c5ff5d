"""`calibration.json` beside `tta.yaml`: how often further views changed the answer on a model's own images.

`tta-server calibrate` writes it. It is valid for one model file, policy and merge, which it names by digest.
"""

import hashlib
import re
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import from_json

from tta_server.backends.external_data import external_files, find_references
from tta_server.errors import ConfigError, InvalidInput
from tta_server.errors.validation import StrictModel, explain, explain_value

FILE = "calibration.json"
Share = Annotated[float, Field(ge=0, le=1)]


class Threshold(StrictModel):
    """The effect of stopping once margin times the square root of the number of views is at least `threshold`.

    The answer differed from that of all views in `disagreements` images; in at most a share `bound` of all images, with
    the file's confidence. `mean_views` were run on average.
    """

    epsilon: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0)]
    disagreements: Annotated[int, Field(ge=0)]
    bound: Share
    mean_views: Annotated[float, Field(ge=1)]


class Calibration(StrictModel):
    """How the top class after k views relates to that after all K `views`.

    `disagreement[k - 1]` is the share of images whose top class after k views is not that of all K; `flips[k - 1][b]`
    is that share among images whose margin lies in bin b, from `edges[b - 1]` up to `edges[b]`.
    """

    version: Literal[1] = 1
    model: str
    policy: str
    merge: str
    images: Annotated[int, Field(ge=1)]
    views: Annotated[int, Field(ge=1)]
    confidence: Share
    thresholds: tuple[Threshold, ...]
    disagreement: tuple[Share, ...]
    edges: tuple[Share, ...]
    flips: tuple[tuple[Share, ...], ...]

    @model_validator(mode="after")
    def _complete(self) -> "Calibration":
        if len(self.disagreement) != self.views or len(self.flips) != self.views:
            raise ValueError(
                f"disagreement has {len(self.disagreement)} entries and flips {len(self.flips)}; both should have one "
                f"for each of the {self.views} views"
            )
        if any(len(row) != len(self.edges) + 1 for row in self.flips):
            raise ValueError(f"each row of flips should have {len(self.edges) + 1} entries, one more than edges")
        if list(self.edges) != sorted(self.edges):
            raise ValueError("edges should be in ascending order")
        return self

    def matches(self, policy: str, merge: str) -> bool:
        """Return whether the calibration is valid for a policy, by its digest, and a merge."""
        return (policy, merge) == (self.policy, self.merge)

    def threshold(self, epsilon: float) -> Threshold:
        """Return the entry of the largest calibrated epsilon <= `epsilon`; raise InvalidInput if there is none."""
        kept = [t for t in self.thresholds if t.epsilon <= epsilon]
        if not kept:
            known = ", ".join(f"{t.epsilon:g}" for t in self.thresholds)
            raise InvalidInput(f"stop epsilon {epsilon:g} is below every calibrated value ({known})")
        return max(kept, key=lambda t: t.epsilon)

    def expected_gain(self, margin: float, done: int) -> float:
        """Return the chance that the top class after `done` views is not the final one, per remaining view."""
        if done >= self.views:
            return 0.0
        return self.flips[done - 1][bisect_right(self.edges, margin)] / (self.views - done)


def read_calibration(folder: Path, model: str, policy: str) -> Calibration | None:
    """Read a model's calibration; None if there is no file.

    Raises ConfigError for an invalid file, and for one that was made for another model file or policy.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = parse_calibration(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except ConfigError as mistake:
        raise ConfigError(f"{path}: {mistake}") from None
    for what, expected, actual in (
        ("model file, input or output", found.model, model),
        ("policy", found.policy, policy),
    ):
        if expected != actual:
            raise ConfigError(
                f"{path} was made for another {what} ({expected[:19]}..., now {actual[:19]}...); "
                f"run `tta-server calibrate` again, or delete the file"
            )
    return found


def parse_calibration(text: bytes) -> Calibration:
    """Parse `calibration.json`; raise ConfigError without the file's name."""
    try:
        given = from_json(text)
    except ValueError:
        raise ConfigError("the file is not JSON") from None
    try:
        return Calibration.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain_value(explain(error, given)[0], list(Calibration.model_fields))) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write JSON with one line per row of numbers; raise OSError."""
    text = calibration.model_dump_json(indent=2)
    rows = re.sub(r"\[[^][{}]+\]", lambda row: " ".join(row[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(rows + "\n", "utf-8")


def digest_of(model_file: Path, config: BaseModel) -> str:
    """Return the digest of a model file, its external data, and the keys `input` and `output` of its tta.yaml.

    Raises ConfigError for external data that is missing.
    """
    content = model_file.read_bytes()
    digest = hashlib.sha256(content)
    for location, path in external_files(model_file, find_references(content)).items():
        with path.open("rb") as file:
            digest.update(location.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    digest.update(_relevant_keys(config))
    return f"sha256:{digest.hexdigest()}"


def remote_digest(identity: Any, config: BaseModel) -> str:
    """The same for a model in a server elsewhere, whose content is not known: its name, version and signature."""
    return f"sha256:{hashlib.sha256(repr(identity).encode() + _relevant_keys(config)).hexdigest()}"


def _relevant_keys(config: BaseModel) -> bytes:
    return config.model_dump_json(include={"input", "output"}, exclude_defaults=True).encode()
