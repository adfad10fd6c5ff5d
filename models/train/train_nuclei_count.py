"""Trains CountNet on the nuclei images squeezed to 256 x 256: log(1 + nuclei), on the CPU."""

import argparse
import csv
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import CountNet, follow

SIDE = 256
BATCH = 24


def load(source):
    """{'train': [...], 'val': [...], 'test': [...]} of (RGB image, log(1 + nuclei))."""
    data = {"train": [], "val": [], "test": []}
    for row in csv.DictReader(Path(f"{source}/index.csv").read_text().splitlines()):
        if row["split"] in data:
            image = cv2.imread(f"{source}/images/{row['id']}.png")[..., ::-1]
            image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            data[row["split"]].append((image, float(np.log1p(int(row["nuclei"])))))
    return data


def prepare(images):
    """RGB images of one size -> (N, 3, SIDE, SIDE) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).astype("f4").transpose(0, 3, 1, 2) / 255))


def augmented(image, rng):
    """One of the 8 orientations of the square, brightness and contrast."""
    image = np.rot90(image, rng.integers(4))
    if rng.random() < 0.5:
        image = image[:, ::-1]
    contrasted = (image.astype("f4") - 128) * rng.uniform(0.7, 1.3) + 128
    return np.clip(contrasted + rng.uniform(-30, 30), 0, 255)


def error(net, samples, views):
    """Mean absolute error in nuclei and RMSE of the log, the first `views` (1 or 8) orientations averaged."""
    x = prepare([image for image, _ in samples])
    y = np.array([logarithm for _, logarithm in samples])
    total = 0
    with torch.no_grad():
        for k in range(views):
            view = torch.rot90(x, k % 4, (2, 3))
            total = total + net(view.flip(3) if k > 3 else view)[:, 0]
    p = total.numpy() / views
    nuclei = np.abs(np.expm1(p) - np.expm1(y)).mean()
    return round(float(nuclei), 3), round(float(np.sqrt(((p - y) ** 2).mean())), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with index.csv (id, split, nuclei) and images/<id>.png")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("steps", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    torch.set_num_threads(2)

    data = load(args.source)
    train = data["train"]
    net = CountNet()
    ema = CountNet().eval()
    print("params", sum(p.numel() for p in net.parameters()), flush=True)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.15)

    start = time.time()
    for step in range(args.steps):
        net.train()
        k = rng.choice(len(train), BATCH)
        x = prepare([augmented(train[j][0], rng) for j in k])
        y = torch.tensor([train[j][1] for j in k]).float()
        with torch.autocast("cpu", torch.bfloat16):
            z = net(x.to(memory_format=torch.channels_last))
        loss = F.smooth_l1_loss(z.float()[:, 0], y, beta=0.2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        follow(ema, net, min(0.99, step / (step + 20)))
        if step % 250 == 249:
            print(f"step {step + 1} {time.time() - start:.0f}s loss {loss.item():.4f} (MAE nuclei, RMSE log)", end="")
            for split in ("val", "test"):
                print(f" {split} {error(ema, data[split], 1)} 8 views {error(ema, data[split], 8)}", end="")
            print(flush=True)
            torch.save({"state": ema.state_dict()}, args.out)
    print("done", flush=True)


if __name__ == "__main__":
    main()
