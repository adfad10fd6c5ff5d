"""The networks behind the bundled models. Plain PyTorch, NCHW float32 in; normalisation is the caller's."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(c_in, c_out, stride=1, k=3):
    """Convolution without bias, batch normalisation, ReLU; keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, k, stride, k // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a skip, which is a 1x1 convolution where the shape changes."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.a = conv_bn(c_in, c_out, stride)
        self.b = nn.Sequential(nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out))
        self.skip = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x):
        return F.relu(self.b(self.a(x)) + self.skip(x))


class SmallResNet(nn.Module):
    """Classifier: (N, 3, 32, 32) -> (N, classes) logits."""

    def __init__(self, classes=10, width=32, depth=3):
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        blocks = [conv_bn(3, widths[0])]
        c = widths[0]
        for i, out in enumerate(widths):
            for j in range(depth):
                blocks.append(Residual(c, out, 2 if i and not j else 1))
                c = out
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(c, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class SmallPhotoNet(nn.Module):
    """Classifier for photos: (N, 3, H, W), trained at 128 x 128 -> (N, classes) logits."""

    def __init__(self, classes=10, width=48):
        super().__init__()
        w = width
        self.body = nn.Sequential(
            conv_bn(3, w // 2, 2),
            Residual(w // 2, w, 2),
            Residual(w, w, 1),
            Residual(w, 2 * w, 2),
            Residual(2 * w, 2 * w, 1),
            Residual(2 * w, 4 * w, 2),
            Residual(4 * w, 4 * w, 1),
        )
        self.head = nn.Linear(4 * w, classes)

    def forward(self, x):
        return self.head(F.dropout(self.body(x).mean((2, 3)), 0.2, self.training))


class UNet(nn.Module):
    """Segmenter: (N, 3, H, W), H and W multiples of 16 -> (N, classes, H, W) logits."""

    def __init__(self, classes=3, base=16):
        super().__init__()
        widths = [base, base * 2, base * 4, base * 8, base * 12]
        self.downs = nn.ModuleList()
        i = 3
        for o in widths:
            self.downs.append(nn.Sequential(conv_bn(i, o), conv_bn(o, o)))
            i = o
        self.ups = nn.ModuleList()
        for o in reversed(widths[:-1]):
            self.ups.append(nn.Sequential(conv_bn(i + o, o), conv_bn(o, o)))
            i = o
        self.head = nn.Conv2d(i, classes, 1)

    def forward(self, x):
        kept = []
        for k, down in enumerate(self.downs):
            if k:
                x = F.max_pool2d(x, 2)
            x = down(x)
            kept.append(x)
        kept.pop()
        for up in self.ups:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = up(torch.cat([x, kept.pop()], 1))
        return self.head(x)


class CenterDetector(nn.Module):
    """Detector: (N, 3, H, W), multiples of 32 -> heat (N, classes, h, w) logits, size (N, 4, h, w), both at stride 4.

    Sizes are the distances to the box's left, top, right and bottom edge, in cells.
    """

    def __init__(self, classes=3, width=16):
        super().__init__()
        w = width
        self.s2 = nn.Sequential(conv_bn(3, w, 2), conv_bn(w, w))
        self.s4 = nn.Sequential(Residual(w, 2 * w, 2), Residual(2 * w, 2 * w, 1))
        self.s8 = nn.Sequential(Residual(2 * w, 4 * w, 2), Residual(4 * w, 4 * w, 1))
        self.s16 = nn.Sequential(Residual(4 * w, 6 * w, 2), Residual(6 * w, 6 * w, 1))
        self.s32 = nn.Sequential(Residual(6 * w, 8 * w, 2), Residual(8 * w, 8 * w, 1))
        self.l16, self.l8, self.l4 = (nn.Conv2d(i, 2 * w, 1) for i in (6 * w, 4 * w, 2 * w))
        self.l32 = nn.Conv2d(8 * w, 2 * w, 1)
        self.smooth = conv_bn(2 * w, 2 * w)
        self.heat = nn.Sequential(conv_bn(2 * w, 2 * w), nn.Conv2d(2 * w, classes, 1))
        self.size = nn.Sequential(conv_bn(2 * w, 2 * w), nn.Conv2d(2 * w, 4, 1))
        nn.init.constant_(self.heat[-1].bias, -2.5)

    def forward(self, x):
        a = self.s4(self.s2(x))
        b = self.s8(a)
        c = self.s16(b)
        y = self.l32(self.s32(c))
        for lateral, skip in ((self.l16, c), (self.l8, b), (self.l4, a)):
            y = F.interpolate(y, scale_factor=2.0, mode="nearest") + lateral(skip)
        y = self.smooth(y)
        return self.heat(y), F.softplus(self.size(y))


class DetectorExport(nn.Module):
    """With the decoding: (N, 3, H, W) -> boxes (N, M, 4) xyxy in input pixels, scores (N, M), labels (N, M) int64.

    The M best cells that are the highest of their 3 x 3 neighbourhood; boxes may reach out of the input.
    """

    def __init__(self, net, top=100, stride=4):
        super().__init__()
        self.net, self.top, self.stride = net, top, stride

    def forward(self, x):
        heat, size = self.net(x)
        p = torch.sigmoid(heat)
        p = p * (p == F.max_pool2d(p, 3, 1, 1)).to(p.dtype)
        n, _, h, w = p.shape
        scores, index = torch.topk(p.reshape(n, -1), self.top, dim=1)
        labels = torch.div(index, h * w, rounding_mode="floor")
        cell = index - labels * (h * w)
        cy = torch.div(cell, w, rounding_mode="floor")
        cx = cell - cy * w
        ltrb = torch.gather(size.reshape(n, 4, -1), 2, cell.unsqueeze(1).expand(-1, 4, -1)) * self.stride
        px, py = (cx.to(p.dtype) + 0.5) * self.stride, (cy.to(p.dtype) + 0.5) * self.stride
        boxes = torch.stack([px - ltrb[:, 0], py - ltrb[:, 1], px + ltrb[:, 2], py + ltrb[:, 3]], dim=2)
        return boxes, scores, labels


class HeatmapNet(nn.Module):
    """Keypoints: (N, 3, H, W), multiples of 16 -> (N, points, H / 4, W / 4) heat-map logits."""

    def __init__(self, points=4, width=24):
        super().__init__()
        w = width
        self.s4 = nn.Sequential(conv_bn(3, w, 2), conv_bn(w, w, 2), Residual(w, w, 1))
        self.s8 = Residual(w, 2 * w, 2)
        self.s16 = nn.Sequential(Residual(2 * w, 4 * w, 2), Residual(4 * w, 4 * w, 1))
        self.u8, self.u4 = nn.Conv2d(4 * w, 2 * w, 1), nn.Conv2d(2 * w, w, 1)
        self.m8, self.m4 = conv_bn(2 * w, 2 * w), conv_bn(w, w)
        self.head = nn.Conv2d(w, points, 1)

    def forward(self, x):
        a = self.s4(x)
        b = self.s8(a)
        c = self.s16(b)
        b = self.m8(F.interpolate(self.u8(c), scale_factor=2.0, mode="nearest") + b)
        a = self.m4(F.interpolate(self.u4(b), scale_factor=2.0, mode="nearest") + a)
        return self.head(a)


class CountNet(nn.Module):
    """Regression: (N, 3, 256, 256) -> (N, 1), the natural log of one plus the number of nuclei."""

    def __init__(self, width=24):
        super().__init__()
        w = width
        self.body = nn.Sequential(
            conv_bn(3, w, 2),
            Residual(w, w, 1),
            Residual(w, 2 * w, 2),
            Residual(2 * w, 2 * w, 1),
            Residual(2 * w, 4 * w, 2),
            Residual(4 * w, 4 * w, 1),
        )
        self.head = nn.Linear(4 * w, 1)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def follow(ema, net, decay):
    """Moves the averaged network towards the trained one, in place; counters are copied."""
    with torch.no_grad():
        for a, b in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)
