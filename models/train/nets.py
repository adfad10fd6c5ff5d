"""The three networks behind the bundled models. Plain PyTorch, NCHW float32 in; normalisation is the caller's."""

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


def follow(ema, net, decay):
    """Moves the averaged network towards the trained one, in place; counters are copied."""
    with torch.no_grad():
        for a, b in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)
