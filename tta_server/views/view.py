"""Views and policies as values, and the views that keep a model's labels."""

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
"""The weight of a view in the merge: one number, or one per class."""


class Border(StrEnum):
    """Pixels beyond the canvas: gfedcb|abcdefgh|gfedcba, fedcba|abcdefgh|hgfedc, aaaaaa|abcdefgh|hhhhhh, black."""

    REFLECT101 = "reflect101"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class View:
    """A deterministic transform of an image.

    `scale` resizes the content before the window is cut. `anchor` (x, y) in [0, 1] places a window of the plain view's
    size on the canvas: (0, 0) is the top left corner, (0.5, 0.5) the centre; None leaves it to preprocessing.
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
        """True if the view changes nothing; name, border and weight do not count."""
        anchor = None if self.anchor == (0.5, 0.5) else self.anchor
        return replace(self, name="plain", border=Border.REFLECT101, weight=1.0, anchor=anchor) == View()

    def then(self, after: "View") -> "View":
        """Compose: first this, then `after`; name, border and weight are this one's."""
        return replace(
            self,
            geometry=self.geometry.then(after.geometry),
            color=self.color.then(after.color),
            scale=self.scale * after.scale,
            anchor=self.anchor if after.anchor is None else after.anchor,
        )


@dataclass(frozen=True)
class Policy:
    """Views in order, most useful first; `views[0]` is the plain view. `digest` identifies the views."""

    name: str
    views: tuple[View, ...]
    version: str = "1"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.views:
            raise InvalidInput("the policy is empty; it needs at least the plain view, 'identity'")
        if not self.views[0].is_plain:
            raise InvalidInput(
                f"the first view of the policy is {self.views[0].name!r}; it must be the plain view, 'identity'"
            )
        if len(self.views) > MAX_VIEWS:
            raise InvalidInput(f"the policy has {len(self.views)} views; the limit is {MAX_VIEWS}")
        object.__setattr__(self, "digest", _digest(self.views))


def _digest(views: Sequence[View]) -> str:
    """Return the sha256 of canonical JSON: sorted keys, numbers in shortest round-trip form, without view names."""
    plain = [{f.name: getattr(v, f.name) for f in fields(View) if f.name != "name"} for v in views]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=_as_mapping)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _as_mapping(value: Geometry | ColorMap) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


@dataclass(frozen=True, slots=True)
class Symmetries:
    """The views that keep a model's labels: mirrors and quarter turns by name, other changes up to a limit.

    `rotate` is in degrees, `zoom` an enlargement or reduction, `shift` in pixels of the model's input.
    """

    names: tuple[str, ...] = ()
    rotate: float = 30.0
    zoom: float = 2.0
    shift: float = 32.0

    def check(self, view: View) -> None:
        """Raise InvalidInput, naming the view and its transform, if a view may change the label."""
        quarter, rest = view.geometry.nearest_symmetry()
        if quarter not in geometry.generated_group(self.names):
            name = next(n for n, q in geometry.SYMMETRIES.items() if q == quarter)
            allowed = ", ".join(self.names) or "none"
            raise InvalidInput(
                f"view {view.name!r} contains {name}, which does not keep this model's labels "
                f"(its symmetries: {allowed})"
            )
        distance = math.hypot(*view.geometry.offset)
        enlargement = view.geometry.magnification * view.scale
        for what, found, limit in (
            ("rotation in degrees", rest, self.rotate),
            ("zoom", enlargement, self.zoom),
            ("reduction", 1 / enlargement, self.zoom),
            ("shift in pixels", distance, self.shift),
        ):
            if found > limit + 1e-9:
                raise InvalidInput(
                    f"view {view.name!r} has a {what} of {found:g}, over this model's limit of {limit:g}"
                )
