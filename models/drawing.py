"""Shapes, noise and light that the sample inputs are drawn from, with numpy and Pillow."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

FINE = 4
"""Outlines and seams are drawn this many times finer, then reduced."""

Point = tuple[float, float]
"""x, y in pixels."""


def picture(values: np.ndarray) -> Image.Image:
    """An image of floats, (H, W) or (H, W, 3) in [0, 1], clipped and rounded to bytes."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def clouds(rng: np.random.Generator, width: int, height: int, cell: int) -> np.ndarray:
    """Smooth noise (H, W) with mean 0 and deviation 1 at the knots, which lie `cell` pixels apart."""
    knots = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC))


def elliptic(x: np.ndarray, y: np.ndarray, centre: Point, axes: Point, angle: float) -> np.ndarray:
    """Distance (H, W) from the centre that is 1 on an ellipse; half axes in pixels, angle in radians."""
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return np.hypot(along / axes[0], across / axes[1])


def within(radius: np.ndarray, size: float, softness: float) -> np.ndarray:
    """Coverage (H, W) in [0, 1] of what lies inside radius 1; `size` pixels to the edge, `softness` pixels wide."""
    return 1 / (1 + np.exp(np.clip((radius - 1) * size / softness, -30, 30)))


def glow(x: np.ndarray, y: np.ndarray, centre: Point, axes: Point) -> np.ndarray:
    """A patch of light (H, W): 1 in the middle, 1/e at the half axes."""
    return np.exp(-(elliptic(x, y, centre, axes, 0.0) ** 2))


def nucleus(x: np.ndarray, y: np.ndarray, centre: Point, axes: Point, angle: float) -> np.ndarray:
    """A soft-edged ellipse (H, W) in [0, 1]; half axes in pixels, angle in radians."""
    radius = elliptic(x, y, centre, axes, angle)
    edge = np.clip((radius - 1) * min(axes) / 1.2, -30, 30)
    return (1 - 0.25 * np.minimum(radius, 1) ** 2) / (1 + np.exp(edge))


def curve(points: Sequence[Point], steps: int = 16) -> list[Point]:
    """A smooth line (Catmull-Rom) through all points but the first and last, which set the direction of its ends."""
    p = np.asarray(points, dtype=np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    line = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate([*line, p[-2:-1]])]


def mirrored(points: Sequence[Point]) -> list[Point]:
    """A closed outline, symmetric about x = 0, from its right half, which is given from the top down."""
    return [*points, *((-x, y) for x, y in reversed(points))]


def mask(outline: Sequence[Point], width: int, height: int) -> Image.Image:
    """A filled outline; x is measured from the middle of the picture."""
    fine = Image.new("L", (width * FINE, height * FINE))
    ImageDraw.Draw(fine).polygon([((x + width / 2) * FINE, y * FINE) for x, y in outline], fill=255)
    return fine.reduce(FINE)


def seams(lines: Sequence[Sequence[Point]], width: int, height: int) -> Image.Image:
    """Thin lines; x is measured from the middle of the picture."""
    fine = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(fine)
    for line in lines:
        draw.line([((x + width / 2) * FINE, y * FINE) for x, y in line], fill=255, width=FINE + FINE // 2)
    return fine.reduce(FINE)


def apart(rng: np.random.Generator, sizes: Sequence[float], gap: float, width: int, height: int) -> list[Point]:
    """A random centre for each radius; any two lie at least `gap` times the sum of their radii apart."""
    centres: list[Point] = []
    for size in sizes:
        free = False
        while not free:
            x, y = rng.uniform(0.6 * size, width - 0.6 * size), rng.uniform(0.6 * size, height - 0.6 * size)
            others = zip(centres, sizes, strict=False)
            free = all(np.hypot(x - a, y - b) > gap * (size + other) for (a, b), other in others)
        centres.append((x, y))
    return centres


def lumpy(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, centre: Point, size: float, lump: float
) -> np.ndarray:
    """Distance (H, W) from the centre that is 1 on an irregular outline of about `size` pixels."""
    angle = np.arctan2(y - centre[1], x - centre[0])
    waves = sum(rng.normal(0, lump / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    return np.hypot(x - centre[0], y - centre[1]) / (size * (1 + waves))


def over(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The canvas (H, W, 3) with a colour, (3,) or (H, W, 3), blended in by alpha (H, W)."""
    return canvas * (1 - alpha[..., None]) + colour * alpha[..., None]


def tapered(line: Sequence[Point], thick: float, thin: float) -> list[Point]:
    """The outline of a line that is `thick` pixels wide at its start and `thin` at its end."""
    p = np.asarray(line, dtype=np.float64)
    run = np.gradient(p, axis=0)
    side = np.stack([-run[:, 1], run[:, 0]], 1) / np.hypot(run[:, 0], run[:, 1])[:, None]
    side *= np.linspace(thick, thin, len(p))[:, None] / 2
    return [(float(x), float(y)) for x, y in np.concatenate([p + side, (p - side)[::-1]])]


def oval(centre: Point, axes: Point) -> list[Point]:
    """The outline of an ellipse along the axes."""
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return [(centre[0] + axes[0] * float(np.cos(t)), centre[1] + axes[1] * float(np.sin(t))) for t in turns]
