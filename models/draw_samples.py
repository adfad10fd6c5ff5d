"""Draws one sample input for each bundled model, with numpy and Pillow alone: python models/draw_samples.py

Nothing is photographed: every picture is made of shapes, gradients and seeded noise, and is the same at every run.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SEED = 7
FINE = 4
"""The T-shirt is drawn this many times finer, then reduced."""

Point = tuple[float, float]


def picture(values: np.ndarray) -> Image.Image:
    """An image of floats, (H, W) or (H, W, 3) in [0, 1], clipped and rounded to bytes."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def clouds(rng: np.random.Generator, width: int, height: int, cell: int) -> np.ndarray:
    """Smooth noise (H, W) with mean 0 and deviation 1 at the knots, which lie `cell` pixels apart."""
    knots = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC))


def nucleus(x: np.ndarray, y: np.ndarray, centre: Point, axes: Point, angle: float) -> np.ndarray:
    """A soft-edged ellipse (H, W) in [0, 1]; half axes in pixels, angle in radians."""
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    radius = np.hypot(along / axes[0], across / axes[1])
    edge = np.clip((radius - 1) * min(axes) / 1.2, -30, 30)
    return (1 - 0.25 * np.minimum(radius, 1) ** 2) / (1 + np.exp(edge))


def scattered(rng: np.random.Generator, count: int, width: int, height: int) -> list[Point]:
    """Centres at least 40 pixels apart, then a close neighbour for each of the first four, so that some touch."""
    centres: list[Point] = []
    while len(centres) < count:
        x, y = rng.uniform(8, width - 8), rng.uniform(8, height - 8)
        if all(np.hypot(x - a, y - b) > 40 for a, b in centres):
            centres.append((x, y))
    turns = rng.uniform(0, 2 * np.pi, 4)
    return centres + [(x + 20 * np.cos(t), y + 20 * np.sin(t)) for (x, y), t in zip(centres, turns, strict=False)]


def draw_nuclei(width: int = 320, height: int = 256) -> Image.Image:
    """Fluorescent nuclei on a dark, slightly uneven and noisy background."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    light = np.zeros((height, width))
    for centre in scattered(rng, 22, width, height):
        axes = (rng.uniform(9, 14), rng.uniform(7, 10))
        shape = nucleus(x, y, centre, axes, rng.uniform(0, np.pi))
        light = np.maximum(light, rng.uniform(0.25, 0.75) * shape)
    light *= 1 + 0.10 * clouds(rng, width, height, 4)
    background = 0.04 + 0.03 * x / width + 0.02 * y / height
    noise = rng.standard_normal(light.shape) * (0.008 + 0.02 * np.sqrt(light))
    return picture(background + light + noise)


def curve(points: Sequence[Point], steps: int = 16) -> list[Point]:
    """A smooth line (Catmull-Rom) through the points; its first and last point only steer its ends."""
    p = np.asarray(points, dtype=np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    line = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate([*line, p[-2:-1]])]


def mirrored(points: Sequence[Point]) -> list[Point]:
    """The right half of an outline about x = 0, from the top down, closed by its mirror image."""
    return [*points, *((-x, y) for x, y in reversed(points))]


def mask(outline: Sequence[Point], width: int, height: int) -> Image.Image:
    """A filled outline; its x counts from the middle of the picture."""
    fine = Image.new("L", (width * FINE, height * FINE))
    ImageDraw.Draw(fine).polygon([((x + width / 2) * FINE, y * FINE) for x, y in outline], fill=255)
    return fine.reduce(FINE)


def seams(lines: Sequence[Sequence[Point]], width: int, height: int) -> Image.Image:
    """Thin lines; their x counts from the middle of the picture."""
    fine = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(fine)
    for line in lines:
        draw.line([((x + width / 2) * FINE, y * FINE) for x, y in line], fill=255, width=FINE + FINE // 2)
    return fine.reduce(FINE)


def draw_clothing(width: int = 400, height: int = 533) -> Image.Image:
    """A plain T-shirt laid flat on a light ground."""
    rng = np.random.default_rng(SEED)
    neck = curve([(-34, 117), (0, 133), (34, 117), (50, 86), (50, 60)])
    back = curve([(-34, 94), (0, 98), (34, 94), (50, 86), (50, 60)])
    side = [(58, 84), *curve([(0, 70), (58, 84), (112, 106), (132, 122), (178, 190), (190, 210)])]
    hem = [*curve([(178, 190), (176, 204), (154, 218), (130, 226), (110, 230)]), (116, 206)]
    body = curve([(112, 170), (114, 210), (110, 300), (114, 400), (120, 452), (122, 480)])
    foot = curve([(150, 440), (120, 452), (60, 459), (0, 460), (-60, 459)])
    front = mask(mirrored([*neck, *side, *hem, *body, *foot]), width, height)
    inside = mask(mirrored([*back, *reversed(neck)]), width, height)
    rib = [(1.18 * x, 84 + 1.18 * (y - 84)) for x, y in neck]
    cuff = [(x - 6, y - 12) for x, y in hem[2:-1]]
    bottom = [(x, y - 14) for x, y in foot]
    lines = [line for half in (rib, cuff, bottom) for line in (half, [(-x, y) for x, y in half])]

    y = np.arange(height)[:, None]
    grain = 0.008 * rng.standard_normal((height, width))
    ground = 0.86 - 0.05 * y / height + 0.015 * clouds(rng, width, height, 40) + grain
    both = ImageChops.lighter(front, inside)
    shadow = ImageChops.offset(both, 5, 8).filter(ImageFilter.GaussianBlur(9))
    ground = ground * (1 - 0.45 * np.asarray(shadow) / 255)
    canvas = ground[..., None] * np.array([1.0, 0.98, 0.94])

    folds = clouds(rng, width, height, 70) + 0.5 * clouds(rng, width, height, 30)
    rim = np.asarray(front.filter(ImageFilter.GaussianBlur(10))) / 255
    shade = (0.72 + 0.28 * rim) * (1 + 0.05 * folds) * (1 - 0.3 * np.asarray(seams(lines, width, height)) / 255) + grain
    cloth = shade[..., None] * np.array([0.16, 0.30, 0.52])
    for layer, colour in ((inside, 0.55 * cloth), (front, cloth)):
        alpha = np.asarray(layer)[..., None] / 255
        canvas = canvas * (1 - alpha) + colour * alpha
    return picture(canvas)


def draw_cifar10(size: int = 32) -> Image.Image:
    """A ship at sea, drawn 16 times larger and reduced."""
    side = 512
    rng = np.random.default_rng(SEED)
    down = np.linspace(0, 1, side)[:, None, None]
    sky = np.array([0.50, 0.68, 0.88]) * (1 - down) + np.array([0.86, 0.90, 0.93]) * down
    sea = np.array([0.16, 0.36, 0.52]) * (1.15 - 0.45 * down) + 0.03 * clouds(rng, side, side, 24)[..., None]
    horizon = 290
    scene = np.where(np.arange(side)[:, None, None] < horizon, sky, sea)
    image = picture(np.broadcast_to(scene, (side, side, 3)))
    draw = ImageDraw.Draw(image)
    draw.polygon([(40, 270), (478, 250), (430, 345), (90, 345)], fill=(40, 44, 58))
    draw.polygon([(84, 330), (440, 330), (430, 350), (92, 350)], fill=(140, 40, 36))
    draw.rectangle([110, 205, 300, 268], fill=(236, 236, 232))
    draw.rectangle([140, 155, 250, 206], fill=(222, 222, 220))
    draw.rectangle([170, 95, 215, 156], fill=(190, 60, 44))
    draw.rectangle([170, 95, 215, 112], fill=(36, 36, 40))
    draw.line([(370, 258), (370, 120)], fill=(70, 70, 76), width=9)
    draw.line([(40, 352), (470, 352)], fill=(214, 226, 234), width=10)
    for x in range(125, 290, 32):
        draw.rectangle([x, 222, x + 16, 240], fill=(60, 80, 104))
    return image.reduce(side // size)


def main() -> None:
    draw_nuclei().save(HERE / "nuclei" / "sample.png", optimize=True)
    draw_clothing().save(HERE / "clothing" / "sample.jpg", quality=90)
    draw_cifar10().save(HERE / "cifar10" / "sample.png", optimize=True)


if __name__ == "__main__":
    main()
