"""Trains CenterDetector on the blood-cell images (RBC, WBC, Platelets), read at half size, on one GPU."""

import argparse
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nets import CenterDetector, DetectorExport, follow

NAMES = ["RBC", "WBC", "Platelets"]
DEVICE = "cuda"
WIDTH, HEIGHT = 320, 256
STRIDE = 4
BATCH = 16


def load(source, split):
    """[(RGB image (3, HEIGHT, WIDTH) on the GPU, boxes (M, 5): xyxy in its pixels, class)] of a list of the set."""
    items = []
    for name in Path(f"{source}/ImageSets/Main/{split}.txt").read_text().split():
        image = cv2.imread(f"{source}/JPEGImages/{name}.jpg")[..., ::-1]
        image = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
        image = cv2.copyMakeBorder(image, 0, 16, 0, 0, cv2.BORDER_REFLECT_101)
        boxes = []
        for item in ET.parse(f"{source}/Annotations/{name}.xml").getroot().iter("object"):
            corners = item.find("bndbox")
            x0, y0, x1, y1 = (float(corners.find(k).text) / 2 for k in ("xmin", "ymin", "xmax", "ymax"))
            if x1 - x0 > 2 and y1 - y0 > 2:
                boxes.append([x0, y0, x1, y1, NAMES.index(item.find("name").text)])
        items.append((torch.tensor(image.copy(), device=DEVICE).permute(2, 0, 1), np.array(boxes, "f4")))
    return items


def target(boxes):
    """Heat (3, h, w), 1 at the cell of a box's centre; left, top, right, bottom (4, h, w) in cells; where they count.

    Heat falls off as a Gaussian of an eighth of the box; the sizes count where it is above a half.
    """
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    gy, gx = np.mgrid[0:h, 0:w]
    heat, size, counts = np.zeros((3, h, w), "f4"), np.zeros((4, h, w), "f4"), np.zeros((h, w), "f4")
    for x0, y0, x1, y1, c in boxes:
        cx, cy = (x0 + x1) / 2 / STRIDE, (y0 + y1) / 2 / STRIDE
        ix, iy = int(np.clip(cx, 0, w - 1)), int(np.clip(cy, 0, h - 1))
        sx, sy = max(0.8, (x1 - x0) / STRIDE / 8), max(0.8, (y1 - y0) / STRIDE / 8)
        near = np.exp(-((gx - ix) ** 2 / (2 * sx * sx) + (gy - iy) ** 2 / (2 * sy * sy)))
        heat[int(c)] = np.maximum(heat[int(c)], near)
        inner = near > 0.5
        left, top = gx + 0.5 - x0 / STRIDE, gy + 0.5 - y0 / STRIDE
        right, bottom = x1 / STRIDE - gx - 0.5, y1 / STRIDE - gy - 0.5
        for k, v in enumerate((left, top, right, bottom)):
            size[k][inner] = np.maximum(v, 0.1)[inner]
        counts[inner] = 1
    return heat, size, counts


def augmented(image, boxes, rng):
    """Scaled by 0.8 to 1.25, shifted by up to 15 %, flipped either way; boxes whose centre left the frame are gone."""
    s = rng.uniform(0.8, 1.25)
    tx, ty = rng.uniform(-0.15, 0.15) * WIDTH, rng.uniform(-0.15, 0.15) * HEIGHT
    fx, fy = rng.choice([-1, 1]), rng.choice([-1, 1])
    theta = [[fx / s, 0, -2 * tx / WIDTH], [0, fy / s, -2 * ty / HEIGHT]]
    theta = torch.tensor(theta, dtype=torch.float32, device=DEVICE)[None]
    grid = F.affine_grid(theta, (1, 3, HEIGHT, WIDTH), align_corners=False)
    x = F.grid_sample(image[None].float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    if not len(boxes):
        return x, boxes

    def moved(v, side, shift, flip):
        u = ((v * 2 / side - 1) + 2 * shift / side) * s / flip
        return (u + 1) * side / 2

    xs = np.sort(np.stack([moved(boxes[:, k], WIDTH, tx, fx) for k in (0, 2)]), 0)
    ys = np.sort(np.stack([moved(boxes[:, k], HEIGHT, ty, fy) for k in (1, 3)]), 0)
    boxes = np.stack([xs[0], ys[0], xs[1], ys[1], boxes[:, 4]], 1)
    cx, cy = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return x, boxes[(cx > 0) & (cx < WIDTH) & (cy > 0) & (cy < HEIGHT)]


def overlaps(boxes, box):
    """IoU (M,) of each box with one."""
    w = np.clip(np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0]), 0, None)
    h = np.clip(np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1]), 0, None)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return w * h / (areas + (box[2] - box[0]) * (box[3] - box[1]) - w * h)


def average_precisions(model, samples):
    """A class each: area under the precision envelope, a hit being IoU 0.5 with a box not yet taken."""
    decoder = DetectorExport(model).eval()
    found = {c: [] for c in range(3)}
    truth = {c: {} for c in range(3)}
    with torch.no_grad():
        for i, (image, boxes) in enumerate(samples):
            for box, score, c in zip(*(t[0].cpu().numpy() for t in decoder(image[None].float() / 255)), strict=True):
                found[int(c)].append((score, i, box))
            for c in range(3):
                truth[c][i] = boxes[boxes[:, 4] == c, :4] if len(boxes) else np.zeros((0, 4))
    results = []
    for c in range(3):
        taken = {i: np.zeros(len(v), bool) for i, v in truth[c].items()}
        hits = []
        for _, i, box in sorted(found[c], key=lambda t: -t[0]):
            hit = False
            if len(truth[c][i]):
                iou = overlaps(truth[c][i], box)
                j = int(iou.argmax())
                if iou[j] >= 0.5 and not taken[i][j]:
                    taken[i][j] = hit = True
            hits.append(hit)
        hits = np.array(hits)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        results.append(float((envelope * hits).sum() / sum(len(v) for v in truth[c].values())))
    return results


def objective(heat, size, heat_target, size_target, counts):
    """Focal loss of the centres (penalty reduced near them), plus twice 1 - IoU of the boxes."""
    p = torch.sigmoid(heat).clamp(1e-4, 1 - 1e-4)
    centre = (heat_target >= 0.999).float()
    missed = centre * (1 - p) ** 2 * p.log()
    invented = (1 - centre) * (1 - heat_target) ** 4 * p**2 * (1 - p).log()
    focal = -(missed + invented).sum() / centre.sum().clamp(min=1)
    left, top, right, bottom = size.unbind(1)
    true_left, true_top, true_right, true_bottom = size_target.unbind(1)
    wide = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    inter = wide * (torch.minimum(top, true_top) + torch.minimum(bottom, true_bottom))
    union = (left + right) * (top + bottom) + (true_left + true_right) * (true_top + true_bottom) - inter
    iou = inter / union.clamp(min=1e-6)
    return focal + 2 * (((1 - iou) * counts).sum() / counts.sum().clamp(min=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder BCCD of BCCD_Dataset: Annotations, ImageSets, JPEGImages")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("minutes", type=float, help="stop after so long, whatever the step")
    parser.add_argument("steps", type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    train, test = load(args.source, "trainval"), load(args.source, "test")
    print(len(train), len(test), flush=True)
    net = CenterDetector().to(DEVICE)
    ema = CenterDetector().to(DEVICE).eval()
    ema.load_state_dict(net.state_dict())
    print("params", sum(p.numel() for p in net.parameters()), flush=True)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.1)

    start = time.time()
    for step in range(args.steps):
        images, targets = [], []
        for j in rng.integers(0, len(train), BATCH):
            image, boxes = augmented(*train[j], rng)
            images.append(image)
            targets.append(target(boxes))
        x = torch.stack(images) / 255
        contrast = 0.8 + 0.4 * torch.rand(BATCH, 1, 1, 1, device=DEVICE)
        tint = 0.15 * (torch.rand(BATCH, 3, 1, 1, device=DEVICE) - 0.5)
        x = ((x - 0.5) * contrast + 0.5 + tint).clamp(0, 1)
        net.train()
        loss = objective(*net(x), *(torch.tensor(np.stack(v), device=DEVICE) for v in zip(*targets, strict=True)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10)
        optimiser.step()
        schedule.step()
        follow(ema, net, min(0.998, step / (step + 50)))
        if step % 500 == 499 or step == args.steps - 1:
            precisions = average_precisions(ema, test)
            print(
                f"step {step + 1} {time.time() - start:.0f}s loss {loss.item():.3f} "
                f"AP50 {np.mean(precisions):.4f} {precisions}",
                flush=True,
            )
            torch.save({"state": ema.state_dict()}, args.out)
        if time.time() - start > args.minutes * 60:
            print("out of time")
            break
    print("done", flush=True)


if __name__ == "__main__":
    main()
