"""Read views from YAML and JSON.

A view is `"hflip"`, `{"rotate": 10}`, a list of these (applied in order), or
`{"name": "tilted", "steps": [...], "border": "replicate", "weight": 0.5}`.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tta_server.errors import InvalidInput, shown
from tta_server.views import color, geometry
from tta_server.views.color import ColorMap
from tta_server.views.geometry import Geometry
from tta_server.views.view import MAX_VIEWS, Border, View, Weight

ANCHORS = {
    "center": (0.5, 0.5),
    "top_left": (0.0, 0.0),
    "top_right": (1.0, 0.0),
    "bottom_left": (0.0, 1.0),
    "bottom_right": (1.0, 1.0),
}


def _number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"{key} takes a number from {low:g} to {high:g}, not {shown(value)}")
    return float(value)


def _pair(key: str, value: Any, low: float, high: float) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InvalidInput(f"{key} takes two numbers [x, y], not {shown(value)}")
    return _number(key, value[0], low, high), _number(key, value[1], low, high)


def _anchor(key: str, value: Any) -> tuple[float, float]:
    if isinstance(value, str):
        if value not in ANCHORS:
            raise InvalidInput(f"{key} takes one of {', '.join(ANCHORS)} or [x, y] in [0, 1], not {shown(value)}")
        return ANCHORS[value]
    return _pair(key, value, 0, 1)


def _crop(key: str, value: Any) -> View:
    """Read a fraction, or {fraction, anchor} (the corner that it touches), or {fraction, center} (in [0, 1])."""
    spec = value if isinstance(value, dict) else {"fraction": value}
    if unknown := set(spec) - {"fraction", "anchor", "center"}:
        raise InvalidInput(f"{key} takes fraction, anchor or center, not {shown(min(unknown, key=str))}")
    fraction = _number(f"{key}.fraction", spec.get("fraction"), 0.1, 1)
    if "center" in spec:
        x, y = _pair(f"{key}.center", spec["center"], 0, 1)
    else:
        ax, ay = _anchor(f"{key}.anchor", spec.get("anchor", "center"))
        x, y = fraction / 2 + ax * (1 - fraction), fraction / 2 + ay * (1 - fraction)
    return View(geometry=geometry.crop(fraction, x, y))


def _quarter_turns(key: str, value: Any) -> View:
    if value not in (1, 2, 3) or isinstance(value, bool):
        raise InvalidInput(f"{key} takes 1, 2 or 3 quarter turns counter-clockwise, not {shown(value)}")
    return View(geometry=geometry.symmetry(f"rot{90 * int(value)}"))


def _symmetry_reader(name: str) -> Callable[[str, Any], View]:
    def read(key: str, value: Any) -> View:
        if value is not True:
            raise InvalidInput(f"{key} takes true, not {shown(value)}")
        return View(geometry=geometry.symmetry(name))

    return read


def _geometry_reader(make: Callable[[float], Geometry], low: float, high: float) -> Callable[..., View]:
    return lambda key, value: View(geometry=make(_number(key, value, low, high)))


def _color_reader(make: Callable[[float], ColorMap], low: float, high: float) -> Callable[..., View]:
    return lambda key, value: View(color=make(_number(key, value, low, high)))


def _grayscale(key: str, value: Any) -> View:
    return View(color=_symmetry_reader("identity")(key, value).color.then(color.grayscale()))


PRIMITIVES: dict[str, Callable[[str, Any], View]] = {
    **{name: _symmetry_reader(name) for name in ("identity", "hflip", "vflip")},
    "rot90": _quarter_turns,
    "transpose": _symmetry_reader("transpose"),
    "antitranspose": _symmetry_reader("antitranspose"),
    "rotate": _geometry_reader(geometry.rotation, -360, 360),
    "zoom": _geometry_reader(geometry.zoom, 1, 10),
    "shift": lambda key, value: View(geometry=geometry.shift(*_pair(key, value, -512, 512))),
    "crop": _crop,
    "scale": lambda key, value: View(scale=_number(key, value, 0.25, 4)),
    "window": lambda key, value: View(anchor=_anchor(key, value)),
    "brightness": _color_reader(color.brightness, 0, 4),
    "contrast": _color_reader(color.contrast, 0, 4),
    "saturation": _color_reader(color.saturation, 0, 4),
    "hue": _color_reader(color.hue, -180, 180),
    "grayscale": _grayscale,
}
"""Step of a view -> reader of its value."""

BARE = ("identity", "hflip", "vflip", "rot90", "transpose", "antitranspose", "grayscale")
"""Primitives that may be written without a value; rot90 then means one quarter turn."""

MAX_STEPS = 32
VIEW_KEYS = ("name", "steps", "border", "weight")


def read_view(spec: Any) -> View:
    """Read one view; raise InvalidInput naming what was found and what is allowed."""
    if isinstance(spec, dict) and "steps" in spec:
        if unknown := [key for key in spec if key not in VIEW_KEYS]:
            raise InvalidInput(f"a view with steps takes the keys {', '.join(VIEW_KEYS)}, not {shown(unknown[0])}")
        options, steps = spec, spec["steps"]
    elif isinstance(spec, dict):
        options = {key: spec[key] for key in VIEW_KEYS if key in spec}
        steps = [{key: value} for key, value in spec.items() if key not in VIEW_KEYS]
    else:
        options, steps = {}, spec
    view = View()
    steps = steps if isinstance(steps, list) else [steps]
    if len(steps) > MAX_STEPS:
        raise InvalidInput(f"the view has {len(steps)} steps; the limit is {MAX_STEPS}")
    for step in steps:
        view = view.then(_read_step(step))
    if view.geometry.magnification < 1 - 1e-9:
        raise InvalidInput("a view may not shrink its content; use scale for a smaller image")
    return replace(
        view,
        name=_name(options.get("name"), steps),
        border=_border(options.get("border", Border.REFLECT101)),
        weight=_weight(options.get("weight", 1.0)),
    )


def _read_step(step: Any) -> View:
    if isinstance(step, str):
        if step not in BARE:
            raise InvalidInput(_unknown_primitive(step))
        step = {step: 1 if step == "rot90" else True}
    if not isinstance(step, dict):
        raise InvalidInput(
            f"a step of a view is a word like 'hflip' or a mapping like {{rotate: 10}}, not {shown(step)}"
        )
    view = View()
    for key, value in step.items():
        if key not in PRIMITIVES:
            raise InvalidInput(_unknown_primitive(key))
        view = view.then(PRIMITIVES[key](key, value))
    return view


def _unknown_primitive(key: Any) -> str:
    if key in PRIMITIVES:
        return f"{key} needs a value, as in {{{key}: ...}}"
    return f"unknown primitive {shown(key)} in a view; known: {', '.join(PRIMITIVES)}"


def _border(value: Any) -> Border:
    if value not in list(Border):
        raise InvalidInput(f"border takes one of {', '.join(Border)}, not {shown(value)}")
    return Border(value)


def _weight(value: Any) -> Weight:
    """Read a positive number, or a list of numbers of at least 0, one per class, not all 0."""
    if isinstance(value, list):
        weights = tuple(_number("weight", v, 0, 1e6) for v in value)
        if not any(weights):
            raise InvalidInput("the weights of the view are all 0; at least one must be positive")
        return weights
    return _number("weight", value, 1e-6, 1e6)


def _name(given: Any, steps: Sequence[Any]) -> str:
    if given is not None:
        if not isinstance(given, str) or not 0 < len(given) <= 64 or not given.isprintable():
            raise InvalidInput(f"a view's name must be text of 1 to 64 printable characters, not {shown(given)}")
        return given
    words = [word for step in steps for word in (_step_names(step) if isinstance(step, dict) else [str(step)])]
    return "plain" if words == ["identity"] else ("+".join(words) or "plain")[:64]


def _step_names(step: Mapping[str, Any]) -> list[str]:
    return [
        key if value is True else f"{key} {json.dumps(value, separators=(',', ':'))}" for key, value in step.items()
    ]


RANDOM_RANGES: dict[str, tuple[float, float]] = {
    "rotate": (-180, 180),
    "zoom": (1, 10),
    "crop": (0.1, 1),
    "shift": (-512, 512),
    "brightness": (0, 4),
    "contrast": (0, 4),
    "saturation": (0, 4),
    "hue": (-180, 180),
}
"""Primitive that `random` may draw -> its widest range; shift draws x and y."""


def read_views(spec: Any) -> tuple[View, ...]:
    """Read a list of views; an entry `{random: {n, seed, ranges}}` expands to n fixed views."""
    if not isinstance(spec, list):
        raise InvalidInput(f"a policy must be a preset's name or a list of views, not {shown(spec)}")
    if len(spec) > MAX_VIEWS:
        raise InvalidInput(f"the policy has {len(spec)} views; the limit is {MAX_VIEWS}")
    views: list[View] = []
    for number, entry in enumerate(spec, start=1):
        try:
            if isinstance(entry, dict) and "random" in entry:
                views += read_random(entry)
            else:
                views.append(read_view(entry))
            if len(views) > MAX_VIEWS:
                raise InvalidInput(f"the policy has {len(views)} views up to this one; the limit is {MAX_VIEWS}")
        except InvalidInput as mistake:
            raise InvalidInput(f"view {number}: {mistake}") from None
    return tuple(views)


def read_random(entry: Mapping[str, Any]) -> list[View]:
    """Read `{random: {n: 4, seed: 7, ranges: {rotate: [-10, 10]}}}`: a seed always gives the same n views."""
    spec = entry["random"]
    if len(entry) != 1 or not isinstance(spec, dict) or set(spec) != {"n", "seed", "ranges"}:
        raise InvalidInput("random takes exactly n, seed and ranges")
    n, seed, ranges = spec["n"], spec["seed"], spec["ranges"]
    count = _number("random.n", n, 1, MAX_VIEWS)
    if not isinstance(seed, int) or not count.is_integer():
        raise InvalidInput("random takes whole numbers for n and seed")
    if not isinstance(ranges, dict) or not ranges or set(ranges) - set(RANDOM_RANGES):
        raise InvalidInput(f"random.ranges takes {', '.join(RANDOM_RANGES)} as [low, high], not {shown(ranges)}")
    bounds = {key: _pair(key, ranges[key], *RANDOM_RANGES[key]) for key in ranges}
    source = random.Random(seed)
    return [read_view({"name": f"random {seed}.{k + 1}", "steps": _draw(source, bounds)}) for k in range(int(count))]


def _draw(source: random.Random, bounds: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Draw the steps of one view, with 4 decimals, so that a listing shows them in full."""

    def one(low: float, high: float) -> float:
        return round(low + (high - low) * source.random(), 4)

    return [{key: [one(*pair), one(*pair)] if key == "shift" else one(*pair)} for key, pair in bounds.items()]
