"""Trains SmallPhotoNet on the CC0 clothing photos (10 classes), on the CPU.

'validation' is for tuning; 'test' is never read here.
"""

import argparse
import glob
import os
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import SmallPhotoNet, follow

MEAN = np.array([0.485, 0.456, 0.406], "f4") * 255
STD = np.array([0.229, 0.224, 0.225], "f4") * 255
SIDE = 128
BATCH = 64


def load(source, names, split, short):
    """Photos (list of RGB uint8, short side resized to `short`) and their class indices."""
    images, classes = [], []
    for index, name in enumerate(names):
        for path in sorted(glob.glob(f"{source}/{split}/{name}/*.jpg")):
            image = cv2.imread(path)[..., ::-1]
            k = short / min(image.shape[:2])
            size = (round(image.shape[1] * k), round(image.shape[0] * k))
            images.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            classes.append(index)
    return images, np.array(classes)


def centre(image):
    """The central SIDE x SIDE crop."""
    top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
    return image[top : top + SIDE, left : left + SIDE]


def prepare(images):
    """RGB images of one size -> normalised (N, 3, H, W)."""
    x = (np.stack(images).astype("f4") - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def augmented(image, rng):
    """Random crop (25 to 100 % of the area, ratio 3:4 to 4:3) to SIDE, mirror, brightness, contrast and tint."""
    h, w = image.shape[:2]
    for _ in range(10):
        area = h * w * rng.uniform(0.25, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        ch, cw = int(round((area / ratio) ** 0.5)), int(round((area * ratio) ** 0.5))
        if ch <= h and cw <= w:
            break
    else:
        ch = cw = min(h, w)
    y, x = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
    image = cv2.resize(image[y : y + ch, x : x + cw], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.5:
        contrasted = (image.astype("f4") - 128) * rng.uniform(0.7, 1.3) + 128
        image = np.clip(contrasted + rng.uniform(-30, 30) + rng.uniform(-12, 12, 3), 0, 255).astype(np.uint8)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with train/<class>/*.jpg and validation/<class>/*.jpg")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("epochs", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    torch.set_num_threads(2)
    cv2.setNumThreads(1)

    names = sorted(os.listdir(f"{args.source}/train"))
    images, classes = load(args.source, names, "train", 160)
    val_images, val_classes = load(args.source, names, "validation", 146)
    val = prepare([centre(i) for i in val_images])
    print(names, len(images), len(val_images), flush=True)

    net = SmallPhotoNet(len(names)).to(memory_format=torch.channels_last)
    ema = SmallPhotoNet(len(names)).eval()
    ema.load_state_dict(net.state_dict())
    print("params", sum(p.numel() for p in net.parameters()), flush=True)
    per_epoch = len(images) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=per_epoch * args.epochs, pct_start=0.15)

    start = time.time()
    step = 0
    for epoch in range(args.epochs):
        net.train()
        order = rng.permutation(len(images))
        for i in range(per_epoch):
            k = order[i * BATCH : (i + 1) * BATCH]
            x = prepare([augmented(images[j], rng) for j in k]).to(memory_format=torch.channels_last)
            y = torch.from_numpy(classes[k])
            lam = rng.beta(0.2, 0.2)  # mixup
            p = torch.randperm(BATCH)
            x = lam * x + (1 - lam) * x[p]
            with torch.autocast("cpu", torch.bfloat16):
                z = net(x)
            z = z.float()
            own = F.cross_entropy(z, y, label_smoothing=0.05)
            other = F.cross_entropy(z, y[p], label_smoothing=0.05)
            loss = lam * own + (1 - lam) * other
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            follow(ema, net, min(0.995, step / (step + 30)))
        if epoch % 3 == 2 or epoch == args.epochs - 1:
            with torch.no_grad():
                z = ema(val)
                flipped = (z.softmax(1) + ema(val.flip(3)).softmax(1)).argmax(1)
            plain_accuracy = (z.argmax(1).numpy() == val_classes).mean()
            flip_accuracy = (flipped.numpy() == val_classes).mean()
            print(
                f"epoch {epoch + 1} {time.time() - start:.0f}s loss {loss.item():.3f} "
                f"val {plain_accuracy:.4f} +hflip {flip_accuracy:.4f}",
                flush=True,
            )
            torch.save({"state": ema.state_dict(), "names": names}, args.out)
    print("done", flush=True)


if __name__ == "__main__":
    main()
