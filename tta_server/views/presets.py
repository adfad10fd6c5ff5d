"""Preset policies, by name; views are ordered most useful first."""

from collections.abc import Callable

from tta_server.errors import InvalidInput
from tta_server.views.spec import read_views
from tta_server.views.view import Policy

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
ROT90 = {"name": "rot90", "steps": ["rot90"]}
ROT180 = {"name": "rot180", "steps": [{"rot90": 2}]}
ROT270 = {"name": "rot270", "steps": [{"rot90": 3}]}
ENLARGED = 1 / 0.875
"""224 to 256: the enlargement from which windows are cut if preprocessing does not crop."""


def _windows(crops: bool) -> dict[str, list[object]]:
    """Return name -> steps: plain, the centre window (unless it is the plain one), the corner windows."""
    enlarge: list[object] = [] if crops else [{"scale": ENLARGED}]
    center = {} if crops else {"center": [*enlarge, {"window": "center"}]}
    return {"plain": ["identity"], **center, **{c: [*enlarge, {"window": c}] for c in CORNERS}}


def _five_crop(crops: bool) -> list[object]:
    return [{"name": name, "steps": steps} for name, steps in _windows(crops).items()]


def _ten_crop(crops: bool) -> list[object]:
    mirrored: list[object] = [
        {"name": f"{name}+hflip", "steps": [*steps, "hflip"]} for name, steps in _windows(crops).items()
    ]
    return _five_crop(crops) + mirrored


def _fixed(*views: object) -> Callable[[bool], list[object]]:
    return lambda crops: list(views)


PRESETS: dict[str, tuple[str, Callable[[bool], list[object]]]] = {
    "plain": ("the image as the model expects it, nothing else", _fixed("identity")),
    "hflip": ("plain and mirrored left to right", _fixed("identity", "hflip")),
    "flips": (
        "plain, both mirrors and the half turn",
        _fixed("identity", "hflip", "vflip", ROT180),
    ),
    "d4": (
        "the eight symmetries of the square",
        _fixed(
            "identity",
            "hflip",
            "vflip",
            ROT180,
            ROT90,
            ROT270,
            "transpose",
            "antitranspose",
        ),
    ),
    "shifts": (
        "plain, hflip and shifts by 2 pixels left, right, up, down",
        _fixed(
            "identity",
            "hflip",
            {"shift": [-2, 0]},
            {"shift": [2, 0]},
            {"shift": [0, -2]},
            {"shift": [0, 2]},
        ),
    ),
    "five_crop": (
        "windows of the input size at the centre and the corners of the resized image (replaces the window)",
        _five_crop,
    ),
    "ten_crop": ("five_crop and its mirror images (replaces the window)", _ten_crop),
    "scales": (
        "content resized at 1, 1.125 and 1.25 times, then the same centre window (replaces the window)",
        _fixed("identity", {"scale": 1.125}, {"scale": 1.25}),
    ),
    "flip_scales": (
        "plain, hflip and two larger scales: the classic four",
        _fixed("identity", "hflip", {"scale": 1.125}, {"scale": 1.25}),
    ),
    "light": (
        "plain, hflip, a 0.9 crop, a little brighter, a little more contrast",
        _fixed("identity", "hflip", {"crop": 0.9}, {"brightness": 1.1}, {"contrast": 1.1}),
    ),
}
"""Name -> (description, function from whether preprocessing crops to the views in their written form)."""


def preset(name: str, crops: bool) -> Policy:
    """Return a preset; `crops`: the model's preprocessing crops. Raises InvalidInput for an unknown name."""
    if name not in PRESETS:
        raise InvalidInput(f"unknown policy {name[:64]!r}; presets: {', '.join(PRESETS)}; or give a list of views")
    return Policy(name, read_views(PRESETS[name][1](crops)))


def read_policy(spec: object, crops: bool) -> Policy:
    """Read a preset's name, a mapping of name, version and views, or a list of views, which is named 'inline'."""
    if isinstance(spec, str):
        return preset(spec, crops)
    if isinstance(spec, dict):
        texts = [spec.get("name", "inline"), spec.get("version", "1")]
        if set(spec) - {"name", "version", "views"} or not all(isinstance(t, str) and t for t in texts):
            raise InvalidInput("a policy takes the keys name and version, both text, and views, a list of views")
        return Policy(texts[0], read_views(spec.get("views")), texts[1])
    return Policy("inline", read_views(spec))
