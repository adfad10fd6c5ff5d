"""Draws one sample input for each bundled model, with numpy and Pillow: python models/draw_samples.py

No photo is used: every picture is made of shapes, gradients and seeded noise, and is the same in every run.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drawing import (
    Point,
    apart,
    clouds,
    curve,
    glow,
    lumpy,
    mask,
    mirrored,
    nucleus,
    oval,
    over,
    picture,
    seams,
    tapered,
    within,
)
from PIL import Image, ImageChops, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SEED = 7


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


WHITE = (88, 62)
"""Radii of the two white cells: a granulocyte, whose nucleus has lobes, and a lymphocyte, whose nucleus fills it."""
RED = 17
PLATELETS = 4


def draw_bloodcells(width: int = 640, height: int = 480) -> Image.Image:
    """A stained smear: red cells with paler middles, two white cells, platelets."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    sizes = [*WHITE, *rng.uniform(44, 58, RED), *rng.uniform(13, 18, PLATELETS)]
    centres = apart(rng, sizes, 0.92, width, height)
    light = 1 + 0.02 * clouds(rng, width, height, 80) - 0.06 * np.hypot(x / width - 0.5, y / height - 0.5)
    canvas = light[..., None] * np.array([0.88, 0.83, 0.82])

    for centre, size in list(zip(centres, sizes, strict=True))[len(WHITE) : -PLATELETS]:
        radius = lumpy(rng, x, y, centre, size, 0.05)
        middle = rng.uniform(0.25, 0.6) * np.exp(-((radius / rng.uniform(0.4, 0.55)) ** 4))
        rim = 0.18 * np.exp(-(((radius - 0.93) / 0.06) ** 2))
        depth = rng.uniform(0.8, 1.15) * within(radius, size, 1.8) * (1 - middle + rim)
        canvas = canvas * np.exp(-depth[..., None] * np.array([0.20, 0.46, 0.46]))

    grains = clouds(rng, width, height, 5)
    body, chromatin = np.array([0.72, 0.62, 0.80]), np.array([0.33, 0.25, 0.70])
    for centre, size, lobes, reach in zip(centres, WHITE, (4, 1), (0.44, 0.06), strict=False):
        radius = lumpy(rng, x, y, centre, size, 0.04)
        canvas = over(canvas, 0.92 * within(radius, size, 2.5), body * (1 + 0.04 * grains[..., None]))
        start = rng.uniform(0, 2 * np.pi)
        nuclear = np.zeros((height, width))
        for turn in start + np.arange(lobes) * 1.35:
            at = (centre[0] + reach * size * np.cos(turn), centre[1] + reach * size * np.sin(turn))
            lobe = size * (0.34 if lobes > 1 else 0.74)
            nuclear = np.maximum(nuclear, within(lumpy(rng, x, y, at, lobe, 0.12), lobe, 2.0))
        canvas = over(canvas, 0.95 * nuclear, chromatin * (1 + 0.10 * clouds(rng, width, height, 9)[..., None]))

    for centre, size in zip(centres[-PLATELETS:], sizes[-PLATELETS:], strict=True):
        radius = lumpy(rng, x, y, centre, size, 0.10)
        canvas = over(canvas, 0.5 * within(radius, size, 3.0), np.array([0.66, 0.58, 0.82]))
        canvas = over(canvas, 0.9 * within(1.5 * radius, size, 2.5), np.array([0.42, 0.34, 0.72]))
    return picture(canvas + 0.006 * rng.standard_normal(canvas.shape)).filter(ImageFilter.GaussianBlur(0.8))


MOUSE = {"snout": (0, 0), "leftear": (-10, 17), "rightear": (10, 17), "tailbase": (0, 128)}
"""The four points in the mouse's own frame, in pixels: the snout at (0, 0), y along its back."""


def posed(points: Sequence[Point]) -> list[Point]:
    """Points from the mouse's frame to the picture's: the hind part bent aside, the whole turned and moved."""
    p = np.asarray(points, dtype=np.float64)
    x, y = p[:, 0] + 0.0016 * np.maximum(p[:, 1] - 30, 0) ** 2, p[:, 1]
    turn = np.radians(38)
    across, along = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return [(float(a), float(b)) for a, b in zip(384 + across, 160 + along, strict=True)]


def arena(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Light floor (H, W) under two lamps, with the walls around it; not quite square to the camera."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    floor = Image.new("L", (width, height))
    ImageDraw.Draw(floor).polygon([(24, 46), (618, 58), (626, 462), (16, 466)], fill=255)
    inside = np.asarray(floor.filter(ImageFilter.GaussianBlur(3))) / 255
    lamps = glow(x, y, (540, 250), (190, 150)) + glow(x, y, (90, 300), (170, 160))
    ground = 0.74 + 0.16 * lamps + 0.01 * clouds(rng, width, height, 6)
    return ground * inside + (0.42 - 0.1 * y / height) * (1 - inside)


def draw_mouse(width: int = 640, height: int = 480) -> Image.Image:
    """A dark mouse in a light arena, seen from above."""
    rng = np.random.default_rng(SEED)

    def layer(points: Sequence[Point]) -> Image.Image:
        return mask([(a - width / 2, b) for a, b in posed(points)], width, height)

    head = [(-7, 1), (0, -1), (5, 4), (9, 13), (12, 24), (19, 44)]
    body = layer(mirrored(curve([*head, (27, 74), (29, 96), (21, 120), (6, 130), (0, 134)])))
    tail = layer(tapered(curve([(0, 100), (0, 122), (-2, 150), (-16, 190), (-40, 225), (-66, 250), (-80, 262)]), 10, 3))
    ears = [layer(oval(MOUSE[name], (8, 9.5))) for name in ("leftear", "rightear")]
    hollows = [layer(oval((x, y + 1), (4, 5.5))) for x, y in (MOUSE["leftear"], MOUSE["rightear"])]
    feet = [layer(oval(foot, (4, 8))) for foot in ((-28, 108), (28, 108), (-19, 40), (19, 40))]

    canvas = arena(rng, width, height)
    whole = ImageChops.lighter(body, tail)
    for offset, blur, dark in (((5, 6), 7, 0.30), ((-9, 3), 5, 0.10)):
        shadow = ImageChops.offset(whole, *offset).filter(ImageFilter.GaussianBlur(blur))
        canvas = canvas * (1 - dark * np.asarray(shadow) / 255)

    fur = 0.10 + 0.018 * clouds(rng, width, height, 3) + 0.012 * clouds(rng, width, height, 9)
    rim = 1 - np.asarray(body.filter(ImageFilter.GaussianBlur(7))) / 255
    layers = [(tail, 0.34), *((foot, 0.42) for foot in feet), *((ear, 0.40) for ear in ears)]
    layers += [(body, fur + 0.12 * rim), *((hollow, 0.56) for hollow in hollows)]
    for shape, grey in layers:
        alpha = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.7))) / 255
        canvas = canvas * (1 - alpha) + grey * alpha
    return picture(canvas + 0.012 * rng.standard_normal(canvas.shape))


COUNT = 48
"""Nuclei in the picture that is counted."""


def draw_nuclei_count(width: int = 320, height: int = 400) -> Image.Image:
    """A denser field under the fluorescence microscope: large and small nuclei with darker spots in them."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    light = np.zeros((height, width))
    sizes = rng.uniform(8, 14, COUNT)
    for centre, size in zip(apart(rng, sizes, 0.85, width, height), sizes, strict=True):
        axes = (size * rng.uniform(1.0, 1.25), size * rng.uniform(0.8, 1.0))
        shape = nucleus(x, y, centre, axes, rng.uniform(0, np.pi))
        for _ in range(2):
            spot = (centre[0] + rng.normal(0, 0.3) * size, centre[1] + rng.normal(0, 0.3) * size)
            shape = shape * (1 - 0.35 * glow(x, y, spot, (0.2 * size, 0.2 * size)))
        light = np.maximum(light, rng.uniform(0.25, 0.85) * shape)
    light *= 1 + 0.06 * clouds(rng, width, height, 4)
    haze = 0.05 + 0.05 * glow(x, y, (0.6 * width, 0.45 * height), (160, 180))
    noise = rng.standard_normal(light.shape) * (0.007 + 0.015 * np.sqrt(light))
    return picture(haze + light + noise)


def main() -> None:
    draw_nuclei().save(HERE / "nuclei" / "sample.png", optimize=True)
    draw_clothing().save(HERE / "clothing" / "sample.jpg", quality=90)
    draw_cifar10().save(HERE / "cifar10" / "sample.png", optimize=True)
    draw_bloodcells().save(HERE / "bloodcells" / "sample.jpg", quality=90)
    draw_mouse().save(HERE / "mouse" / "sample.jpg", quality=90)
    draw_nuclei_count().save(HERE / "nuclei-count" / "sample.png", optimize=True)


if __name__ == "__main__":
    main()
