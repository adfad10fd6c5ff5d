"""Views and policies as values, and which views keep a model's labels."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from tta_server.errors import InvalidInput
from tta_server.views import color, geometry
from tta_server.views.color import ColorMap
from tta_server.views.geometry import Geometry

MAX_VIEWS = 256
Weight = float | tuple[float, ...]


class Border(StrEnum):
    """What lies beyond the canvas: gfedcb|abcdefgh|gfedcba, fedcba|abcdefgh|hgfedc, aaaaaa|abcdefgh|hhhhhh, black."""

    REFLECT101 = "reflect101"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class View:
    """One deterministic way to look at an image.

    `scale` resizes the content before the window is cut. `anchor` cuts a window of the plain view's size: at (0, 0) in
    the canvas's top left corner, at (0.5, 0.5) in its middle; None leaves the window to preprocessing.
    `weight` is what its prediction counts in the merge, one number or one for each class.
    """

    name: str = "plain"
    geometry: Geometry = geometry.IDENTITY
    color: ColorMap = color.IDENTITY
    border: Border = Border.REFLECT101
    scale: float = 1.0
    anchor: tuple[float, float] | None = None
    weight: Weight = 1.0

    @property
    def is_plain(self) -> bool:
        anchor = None if self.anchor == (0.5, 0.5) else self.anchor
        return replace(self, name="plain", border=Border.REFLECT101, weight=1.0, anchor=anchor) == View()

    def then(self, after: "View") -> "View":
        """First this, then `after`; name, border and weight stay."""
        return replace(
            self,
            geometry=self.geometry.then(after.geometry),
            color=self.color.then(after.color),
            scale=self.scale * after.scale,
            anchor=self.anchor if after.anchor is None else after.anchor,
        )


@dataclass(frozen=True)
class Policy:
    """Views in the order of their worth, `views[0]` the plain one."""

    name: str
    views: tuple[View, ...]
    version: str = "1"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.views:
            raise InvalidInput("a policy needs at least one view, the plain one: 'identity'")
        if not self.views[0].is_plain:
            raise InvalidInput(
                f"a policy starts with the plain view 'identity', but its first view is {self.views[0].name!r}"
            )
        if len(self.views) > MAX_VIEWS:
            raise InvalidInput(f"a policy has at most {MAX_VIEWS} views; this one has {len(self.views)}")
        object.__setattr__(self, "digest", _digest(self.views))


def _digest(views: Sequence[View]) -> str:
    """sha256 of the canonical JSON: keys sorted, numbers in shortest round-trip form. Names do not count."""
    plain = [{f.name: getattr(v, f.name) for f in fields(View) if f.name != "name"} for v in views]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=_as_mapping)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _as_mapping(value: Geometry | ColorMap) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


@dataclass(frozen=True, slots=True)
class Symmetries:
    """Which views keep a model's labels: mirrors and quarter turns by name, the rest up to a limit."""

    names: tuple[str, ...] = ()
    rotate: float = 30.0
    zoom: float = 2.0
    shift: float = 32.0

    def check(self, view: View) -> None:
        """Raises InvalidInput that names the view and what it would break."""
        quarter, rest = view.geometry.nearest_symmetry()
        if quarter not in geometry.generated(self.names):
            word = next(n for n, q in geometry.SYMMETRIES.items() if q == quarter)
            allowed = ", ".join(self.names) or "none"
            raise InvalidInput(
                f"view {view.name!r} contains {word}, which does not keep this model's labels "
                f"(its symmetries: {allowed})"
            )
        far = math.hypot(*view.geometry.offset)
        enlarged = view.geometry.magnification * view.scale
        for what, found, limit in (
            ("rotation in degrees", rest, self.rotate),
            ("zoom", enlarged, self.zoom),
            ("reduction", 1 / enlarged, self.zoom),
            ("shift in pixels", far, self.shift),
        ):
            if found > limit + 1e-9:
                raise InvalidInput(
                    f"view {view.name!r} has a {what} of {found:g}, over this model's limit of {limit:g}"
                )
