"""`calibration.json` beside `tta.yaml`: what further views were worth on images of a model's own field.

`tta-server calibrate` makes it; it holds for one model file, policy and merge, which it names by their digests.
"""

import hashlib
import re
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import from_json

from tta_server.errors import ConfigError, InvalidInput
from tta_server.errors.validation import StrictModel, explain, explain_value

FILE = "calibration.json"
Share = Annotated[float, Field(ge=0, le=1)]


class Threshold(StrictModel):
    """Stopping where the margin times the root of the number of views is at least `threshold` disagreed with all views
    in `disagreements` images, in `bound` of all images at most with the confidence of the file, and took `mean_views`.
    """

    epsilon: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0)]
    disagreements: Annotated[int, Field(ge=0)]
    bound: Share
    mean_views: Annotated[float, Field(ge=1)]


class Calibration(StrictModel):
    """What K `views` came to, after k of them.

    `disagreement[k - 1]` is the share of images whose top class is not that of all K, and `flips[k - 1][b]` the chance
    of that where the margin lies in bin b, from `edges[b - 1]` up to `edges[b]`.
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
            raise ValueError(f"disagreement and flips need one entry for each of the {self.views} views")
        if any(len(row) != len(self.edges) + 1 for row in self.flips) or list(self.edges) != sorted(self.edges):
            raise ValueError("each row of flips needs one entry more than there are edges, which must be in order")
        return self

    def matches(self, policy: str, merge: str) -> bool:
        return (policy, merge) == (self.policy, self.merge)

    def threshold(self, epsilon: float) -> float:
        """Of the boldest promise that is not above `epsilon`; raises InvalidInput where there is none."""
        kept = [t for t in self.thresholds if t.epsilon <= epsilon]
        if not kept:
            known = ", ".join(f"{t.epsilon:g}" for t in self.thresholds)
            raise InvalidInput(f"stop epsilon {epsilon:g} is less than was calibrated for ({known})")
        return max(kept, key=lambda t: t.epsilon).threshold

    def worth(self, margin: float, done: int) -> float:
        """The chance, for each view still to run, that the top class is not yet that of all views."""
        if done >= self.views:
            return 0.0
        return self.flips[done - 1][bisect_right(self.edges, margin)] / (self.views - done)


def read_calibration(folder: Path, model: str, policy: str) -> Calibration | None:
    """None where there is no file; raises ConfigError for one that was made for another model file or policy."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = parse_calibration(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except ConfigError as mistake:
        raise ConfigError(f"{path}: {mistake}") from None
    for what, made_for, is_now in (
        ("model file, input or output", found.model, model),
        ("policy", found.policy, policy),
    ):
        if made_for != is_now:
            raise ConfigError(
                f"{path} was made for another {what} ({made_for[:19]}..., now {is_now[:19]}...); "
                f"run `tta-server calibrate` again, or delete it"
            )
    return found


def parse_calibration(text: bytes) -> Calibration:
    """Raises ConfigError without the file's name."""
    try:
        given = from_json(text)
    except ValueError:
        raise ConfigError("the file is not JSON") from None
    try:
        return Calibration.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain_value(explain(error, given)[0], list(Calibration.model_fields))) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """As JSON for eyes too: a row of numbers is one line. Raises OSError."""
    text = calibration.model_dump_json(indent=2)
    rows = re.sub(r"\[[^][{}]+\]", lambda row: " ".join(row[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(rows + "\n", "utf-8")


def digest_of(model_file: Path, config: BaseModel) -> str:
    """Of the model and of how it is fed and read: what its tta.yaml says of `input` and `output`."""
    digest = hashlib.sha256(model_file.read_bytes())
    digest.update(config.model_dump_json(include={"input", "output"}, exclude_defaults=True).encode())
    return f"sha256:{digest.hexdigest()}"
