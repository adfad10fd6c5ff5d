"""How many images may fail."""

import re
from dataclasses import dataclass

from tta_server.errors import InvalidInput, shown

LIMIT = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """A number of images, or a share of all."""

    text: str
    number: float
    is_share: bool

    def is_passed(self, failed: int, images: int) -> bool:
        return failed > (self.number / 100 * images if self.is_share else self.number)


def read_limit(text: str | None) -> FailureLimit | None:
    """Read `12` or `1%`. Raises InvalidInput."""
    if text is None:
        return None
    found = LIMIT.fullmatch(text)
    if found is None or (found[2] and float(found[1]) > 100) or (not found[2] and "." in found[1]):
        raise InvalidInput(f"--max-failures takes a number of images, or a share of them like 1%, not {shown(text)}")
    return FailureLimit(text, float(found[1]), bool(found[2]))
