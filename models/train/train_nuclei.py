"""Trains UNet on the nuclei images, on one GPU: classes background, nucleus, border between touching nuclei."""

import argparse
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import UNet, follow

DEVICE = "cuda"
SIDE = 256
BATCH = 32


def target(instances):
    """Instance map -> 0 background, 1 nucleus, 2 border (within 2 px of another nucleus)."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    highest = cv2.dilate(instances.astype(np.float32), kernel)
    inverse = np.where(instances > 0, 65536.0 - instances, 0).astype(np.float32)
    lowest = cv2.dilate(inverse, kernel)
    lowest = np.where(lowest > 0, 65536 - lowest, 0)
    touching = (highest > 0) & (lowest > 0) & (highest != lowest)
    classes = (instances > 0).astype(np.uint8)
    classes[touching] = 2
    return classes


def load(source):
    """{'train': [...], 'val': [...]} of (RGB image, target, modality) from the pack."""
    pack = np.load(f"{source}/nuclei.npz")
    blob, offsets, meta = pack["blob"], pack["off"], pack["meta"]
    data = {"train": [], "val": []}
    for i, (_, split, modality) in enumerate(meta):
        image = cv2.imdecode(blob[offsets[2 * i] : offsets[2 * i + 1]], cv2.IMREAD_COLOR)[..., ::-1].copy()
        label = cv2.imdecode(blob[offsets[2 * i + 1] : offsets[2 * i + 2]], cv2.IMREAD_COLOR)
        instances = label[..., 0].astype(np.int32) + 256 * label[..., 1].astype(np.int32)
        data[split].append((image, target(instances), modality))
    return data


def on_device(image, classes):
    """Image (3, H, W) and target (H, W) on the GPU, at least SIDE high and wide."""
    h, w = image.shape[:2]
    pad = (0, max(0, SIDE - h), 0, max(0, SIDE - w))
    image = cv2.copyMakeBorder(image, *pad, cv2.BORDER_REFLECT_101)
    classes = cv2.copyMakeBorder(classes, *pad, cv2.BORDER_REFLECT_101)
    return torch.tensor(image, device=DEVICE).permute(2, 0, 1), torch.tensor(classes, device=DEVICE)


def augmented(image, classes, rng):
    """A random SIDE x SIDE crop in one of the 8 orientations of the square."""
    y, x = rng.integers(0, image.shape[1] - SIDE + 1), rng.integers(0, image.shape[2] - SIDE + 1)
    a, b = image[:, y : y + SIDE, x : x + SIDE], classes[y : y + SIDE, x : x + SIDE]
    if rng.random() < 0.5:
        a, b = a.flip(2), b.flip(1)
    k = int(rng.integers(0, 4))
    return torch.rot90(a, k, (1, 2)), torch.rot90(b, k, (0, 1))


def iou(model, samples, views):
    """Mean over images of the foreground's IoU, with the first `views` (1 or 8) orientations averaged."""
    scores = []
    with torch.no_grad():
        for image, classes, _ in samples:
            h, w = image.shape[:2]
            padded = cv2.copyMakeBorder(image, 0, -h % 16, 0, -w % 16, cv2.BORDER_REFLECT_101)
            x = torch.tensor(padded, device=DEVICE).permute(2, 0, 1)[None].float() / 255
            total = 0
            for k in range(views):
                view = torch.rot90(x, k % 4, (2, 3))
                view = view.flip(3) if k >= 4 else view
                q = model(view).softmax(1)
                q = q.flip(3) if k >= 4 else q
                total = total + torch.rot90(q, -(k % 4), (2, 3))
            found = (total.argmax(1)[0, :h, :w] > 0).cpu().numpy()
            truth = classes > 0
            scores.append((found & truth).sum() / max(1, (found | truth).sum()))
    return float(np.mean(scores))


def objective(logits, classes):
    """Cross entropy, borders weighing 4, plus 1 - Dice of the foreground."""
    entropy = F.cross_entropy(logits, classes, weight=torch.tensor([1.0, 1.0, 4.0], device=DEVICE))
    p = logits.softmax(1)[:, 1:].sum(1)
    g = (classes > 0).float()
    dice = 1 - (2 * (p * g).sum((1, 2)) + 1) / (p.sum((1, 2)) + g.sum((1, 2)) + 1)
    return entropy + dice.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with nuclei.npz")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("minutes", type=float, help="stop after so long, whatever the step")
    parser.add_argument("steps", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    torch.backends.cudnn.benchmark = True

    data = load(args.source)
    print({k: len(v) for k, v in data.items()}, flush=True)
    train = [on_device(image, classes) for image, classes, _ in data["train"]]
    weights = np.array([
        (3 if modality != "fluorescence" else 1) * max(1, np.sqrt(classes.numel() / 65536))
        for (_, classes), (_, _, modality) in zip(train, data["train"], strict=True)
    ])  # fmt: skip
    weights /= weights.sum()

    net = UNet().to(DEVICE).to(memory_format=torch.channels_last)
    ema = UNet().to(DEVICE).eval()
    ema.load_state_dict(net.state_dict())
    print("params", sum(p.numel() for p in net.parameters()), flush=True)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=args.steps, pct_start=0.1)

    start = time.time()
    for step in range(args.steps):
        crops = [augmented(*train[j], rng) for j in rng.choice(len(train), BATCH, p=weights)]
        x = torch.stack([a for a, _ in crops]).float() / 255
        t = torch.stack([b for _, b in crops]).long()
        contrast = 0.7 + 0.6 * torch.rand(BATCH, 1, 1, 1, device=DEVICE)
        brightness = 0.2 * (torch.rand(BATCH, 1, 1, 1, device=DEVICE) - 0.5)
        x = ((x - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
        net.train()
        with torch.autocast("cuda", torch.bfloat16):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        loss = objective(logits.float(), t)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        follow(ema, net, min(0.998, step / (step + 50)))
        if step % 500 == 499 or step == args.steps - 1:
            print(
                f"step {step + 1} {time.time() - start:.0f}s loss {loss.item():.3f} "
                f"val IoU {iou(ema, data['val'], 1):.4f} with 8 views {iou(ema, data['val'], 8):.4f}",
                flush=True,
            )
            torch.save({"state": ema.state_dict()}, args.out)
        if time.time() - start > args.minutes * 60:
            print("out of time")
            break
    print("done", flush=True)


if __name__ == "__main__":
    main()
