"""Trains HeatmapNet on the open-field mouse frames (snout, leftear, rightear, tailbase), read at 320 x 240, on the CPU.

Every fourth frame is for testing.
"""

import argparse
import csv
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import HeatmapNet

POINTS = ["snout", "leftear", "rightear", "tailbase"]
SWAPPED = [0, 2, 1, 3]
WIDTH, HEIGHT = 320, 240
STRIDE = 4
SPREAD = 5.0
"""Deviation of a heat map's Gaussian, in pixels of 320 x 240."""
BATCH = 12
GY, GX = np.mgrid[0 : HEIGHT // STRIDE, 0 : WIDTH // STRIDE] * STRIDE + STRIDE // 2
"""Centres of the heat map's cells, in pixels."""


def load(source):
    """Frames (list of RGB uint8) and their points (N, 4, 2) in pixels of 320 x 240, NaN where not marked."""
    images, points = [], []
    for row in csv.DictReader(Path(f"{source}/labels.csv").read_text().splitlines()):
        image = cv2.imread(f"{source}/{row['file']}")[..., ::-1]
        k = np.array([WIDTH / image.shape[1], HEIGHT / image.shape[0]])
        images.append(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
        points.append(np.array([[float(row[f"{n}_{axis}"] or "nan") for axis in "xy"] for n in POINTS]) * k)
    return images, np.array(points)


def target(points):
    """One Gaussian a point (4, h, w); nothing where the point is not marked."""
    maps = [
        np.exp(-((GX - x) ** 2 + (GY - y) ** 2) / (2 * SPREAD**2)) if np.isfinite(x) else np.zeros(GX.shape)
        for x, y in points
    ]
    return np.stack(maps)


def augmented(image, points, rng):
    """Any rotation, scaled by 0.85 to 1.2, shifted by up to 20 pixels, mirrored, brightness and contrast."""
    angle, scale = rng.uniform(-180, 180), rng.uniform(0.85, 1.2)
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), angle, scale)
    matrix[:, 2] += rng.uniform(-20, 20, 2)
    image = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    points = points @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < 0.5:
        image = image[:, ::-1]
        points[:, 0] = WIDTH - points[:, 0]
        points = points[SWAPPED]
    contrasted = (image.astype("f4") - 128) * rng.uniform(0.7, 1.3) + 128
    image = np.clip(contrasted + rng.uniform(-25, 25), 0, 255) / 255
    return image.transpose(2, 0, 1), target(points)


def peak(heat):
    """(x, y) in pixels: the centroid of the 5 x 5 cells around the highest."""
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    window = slice(max(0, y - 2), y + 3), slice(max(0, x - 2), x + 3)
    w = heat[window]
    return (w * GX[window]).sum() / w.sum(), (w * GY[window]).sum() / w.sum()


def error(net, images, points, flipped):
    """Mean and median distance in pixels of 320 x 240: of the frame alone, or of its four flips averaged."""
    distances = []
    with torch.no_grad():
        for image, truth in zip(images, points, strict=True):
            x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
            heat = torch.sigmoid(net(x))
            if flipped:
                heat = heat + torch.sigmoid(net(x.flip(3))).flip(3)[:, SWAPPED]
                heat = heat + torch.sigmoid(net(x.flip(2))).flip(2)[:, SWAPPED]
                heat = heat + torch.sigmoid(net(x.flip(2, 3))).flip(2, 3)
            distances += [np.hypot(*(peak(m) - p)) for m, p in zip(heat[0].numpy(), truth, strict=True)]
    return float(np.nanmean(distances)), float(np.nanmedian(distances))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with labels.csv and the frames it names")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("steps", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    torch.set_num_threads(2)

    images, points = load(args.source)
    held_back = np.arange(len(images)) % 4 == 3
    train, test = np.flatnonzero(~held_back), np.flatnonzero(held_back)
    test_images, test_points = [images[i] for i in test], points[test]
    print(len(train), len(test), flush=True)

    net = HeatmapNet()
    print("params", sum(p.numel() for p in net.parameters()), flush=True)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=args.steps, pct_start=0.1)

    start = time.time()
    for step in range(args.steps):
        net.train()
        batch = [augmented(images[i], points[i], rng) for i in rng.choice(train, BATCH)]
        x = torch.from_numpy(np.stack([image for image, _ in batch])).float()
        maps = torch.from_numpy(np.stack([heat for _, heat in batch])).float()
        with torch.autocast("cpu", torch.bfloat16):
            z = net(x.to(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(z.float(), maps, pos_weight=torch.tensor(8.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            net.eval()
            print(
                f"step {step + 1} {time.time() - start:.0f}s loss {loss.item():.4f} "
                f"error mean and median {error(net, test_images, test_points, False)} "
                f"with 4 flips {error(net, test_images, test_points, True)}",
                flush=True,
            )
            torch.save({"state": net.state_dict()}, args.out)
    print("done", flush=True)


if __name__ == "__main__":
    main()
