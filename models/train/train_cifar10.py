"""Trains SmallResNet on CIFAR-10 on one GPU; keeps 5,000 training images back as 'val' for tuning views."""

import argparse
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import SmallResNet, follow

MEAN = np.array([125.3, 123.0, 113.9], "f4")
STD = np.array([63.0, 62.1, 66.7], "f4")
DEVICE = "cuda"
BATCH = 256
HELD_BACK = 5000


def load(source, split):
    """RGB images (N, 32, 32, 3) uint8 and labels (N,) of a pack."""
    pack = np.load(f"{source}/cifar_{split}.npz")
    blob, offsets, labels = pack["blob"], pack["off"], pack["lab"]
    images = [
        cv2.imdecode(blob[a:b], cv2.IMREAD_COLOR)[..., ::-1] for a, b in zip(offsets[:-1], offsets[1:], strict=True)
    ]
    return np.stack(images), labels


def on_device(images):
    """(N, H, W, 3) bytes -> normalised (N, 3, H, W) on the GPU."""
    x = (torch.tensor(images.astype("f4")) - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2).contiguous().to(DEVICE)


def augmented(padded, k):
    """Images `k` of those padded by 4 pixels: random 32 x 32 crop, mirror, and one hole of 7 x 7 pixels set to 0."""
    n = len(k)
    axis = torch.arange(32, device=DEVICE)
    oy, ox = torch.randint(0, 9, (n,), device=DEVICE), torch.randint(0, 9, (n,), device=DEVICE)
    batch = padded[
        k[:, None, None, None],
        torch.arange(3, device=DEVICE)[None, :, None, None],
        (oy[:, None] + axis)[:, None, :, None],
        (ox[:, None] + axis)[:, None, None, :],
    ]
    flip = torch.rand(n, device=DEVICE) < 0.5
    batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
    cy, cx = torch.randint(0, 32, (n,), device=DEVICE), torch.randint(0, 32, (n,), device=DEVICE)
    rows = (axis[None, :] - cy[:, None]).abs() < 4
    columns = (axis[None, :] - cx[:, None]).abs() < 4
    hole = rows[:, :, None] & columns[:, None, :]
    return batch.masked_fill(hole[:, None], 0).contiguous(memory_format=torch.channels_last)


def accuracy(predict, x, y):
    """Share of images whose most probable class is right, in batches of 1,000."""
    hits = [
        (predict(x[j : j + 1000]).argmax(1) == y[j : j + 1000]).float().mean().item() for j in range(0, len(x), 1000)
    ]
    return np.mean(hits)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with cifar_train.npz and cifar_test.npz")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("epochs", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    np.random.seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True

    images, labels = load(args.source, "train")
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    test_images, test_labels = load(args.source, "test")
    x_val = on_device(images[:HELD_BACK])
    y_val = torch.tensor(labels[:HELD_BACK].astype("i8"), device=DEVICE)
    x_train = on_device(images[HELD_BACK:])
    y_train = torch.tensor(labels[HELD_BACK:].astype("i8"), device=DEVICE)
    x_test = on_device(test_images)
    y_test = torch.tensor(test_labels.astype("i8"), device=DEVICE)
    padded = F.pad(x_train, (4, 4, 4, 4), mode="reflect")

    net = SmallResNet().to(DEVICE).to(memory_format=torch.channels_last)
    ema = SmallResNet().to(DEVICE).eval()
    ema.load_state_dict(net.state_dict())
    per_epoch = len(x_train) // BATCH
    optimiser = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.4, total_steps=per_epoch * args.epochs, pct_start=0.2)
    print("params", sum(p.numel() for p in net.parameters()), flush=True)

    def mirrored(x):
        return ema(x).softmax(1) + ema(x.flip(3)).softmax(1)

    start = time.time()
    step = 0
    for epoch in range(args.epochs):
        net.train()
        shuffled = torch.randperm(len(x_train), device=DEVICE)
        for i in range(per_epoch):
            k = shuffled[i * BATCH : (i + 1) * BATCH]
            batch = augmented(padded, k)
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(net(batch), y_train[k], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            follow(ema, net, min(0.999, step / (step + 50)))
        if epoch % 10 == 9 or epoch == args.epochs - 1:
            with torch.no_grad():
                print(
                    f"epoch {epoch + 1} {time.time() - start:.0f}s val {accuracy(ema, x_val, y_val):.4f} "
                    f"test {accuracy(ema, x_test, y_test):.4f} test+hflip {accuracy(mirrored, x_test, y_test):.4f}",
                    flush=True,
                )
            torch.save(
                {
                    "state": ema.state_dict(),
                    "mean": MEAN.tolist(),
                    "std": STD.tolist(),
                    "val_index": order[:HELD_BACK].tolist(),
                },
                args.out,
            )
    print("done", flush=True)


if __name__ == "__main__":
    main()
