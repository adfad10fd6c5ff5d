"""What peers run: the large net in torch on eight views that are made on the device, as users write it themselves."""

import importlib
import os
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from benchmarks.device_steps.nets import CONFIG, SIDE, load_torch

SHORT, SHIFT = 256, 8
CROP = SIDE + 2 * SHIFT
"""The middle of the resized photo, which has all that the views show: it alone is sent to the device."""
VIEWS = ((1, 0, 0), (-1, 0, 0), (1, 8, 0), (1, -8, 0), (1, 0, 8), (1, 0, -8), (-1, 8, 0), (-1, -8, 0))
"""Sign of x, and shift right and down in pixels, as the nets' own policy."""
TOP = 5


def decode(data: bytes) -> NDArray[np.uint8]:
    """A JPEG file -> its middle (CROP, CROP, 3), on the calling thread."""
    photo = Image.fromarray(simplejpeg.decode_jpeg(data))
    scale = SHORT / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)
    left, top = (photo.width - CROP) // 2, (photo.height - CROP) // 2
    return np.array(photo.crop((left, top, left + CROP, top + CROP)))


class PeerModel:
    """Runs batches of photos on one thread; on a GPU in float16, compiled."""

    def __init__(self, net: str, device: str) -> None:
        torch = importlib.import_module("torch")
        self._torch, self._device = torch, device
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        module = load_torch(net).to(device, self._dtype).to(memory_format=torch.channels_last)
        self._net = torch.compile(module, mode="reduce-overhead") if device == "cuda" else module
        config: dict[str, Any] = CONFIG["input"]
        self._mean, self._std = (torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
        self._grid = self._make_grid()

    def _make_grid(self) -> Any:
        """(views, SIDE, SIDE, 2): where each view samples the crop, in the units of grid_sample."""
        functional, share = self._torch.nn.functional, SIDE / CROP
        # A view shifted to the right shows what lies to the left.
        rows = [[[sign * share, 0, -2 * sign * x / CROP], [0, share, -2 * y / CROP]] for sign, x, y in VIEWS]
        theta = self._torch.tensor(rows, device=self._device)
        return functional.affine_grid(theta, [len(VIEWS), 3, SIDE, SIDE], align_corners=False)

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, CROP, CROP, 3) -> mean probabilities (n, C)."""
        torch, n = self._torch, len(crops)
        with torch.inference_mode():
            there = torch.from_numpy(crops).to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()
            rows = there.repeat_interleave(len(VIEWS), 0)
            views = torch.nn.functional.grid_sample(rows, self._grid.repeat(n, 1, 1, 1), align_corners=False)
            batch = ((views / 255 - self._mean) / self._std).to(self._dtype)
            scores = self._net(batch.contiguous(memory_format=torch.channels_last)).float()
            merged: NDArray[np.float32] = scores.softmax(1).view(n, len(VIEWS), -1).mean(1).cpu().numpy()
        return merged

    def warm(self, sizes: tuple[int, ...]) -> None:
        """Compile and capture each batch size."""
        for n in sizes:
            for _ in range(3):
                self.predict(np.zeros((n, CROP, CROP, 3), np.uint8))


def answer(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    best = probabilities.argsort()[::-1][:TOP]
    return {"top": [{"index": int(index), "probability": float(probabilities[index])} for index in best]}


def from_environment() -> PeerModel:
    """The net and device that the step `peers` asks for."""
    return PeerModel(os.environ["PEER_NET"], os.environ["PEER_DEVICE"])
