"""What a model answers by itself, computed with Pillow, numpy and onnxruntime and none of our code."""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

MODELS = Path(__file__).parents[2] / "models"
CLOTHING = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")


@cache
def session(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(MODELS / name / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])


def run(name: str, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    model = session(name)
    (output,) = model.run(None, {model.get_inputs()[0].name: batch})
    return np.asarray(output)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    p = np.exp(scores - scores.max(axis=0))
    return np.asarray(p / p.sum(axis=0))


def clothing_input(image: Image.Image) -> NDArray[np.float32]:
    """torchvision's Resize(146), CenterCrop(128), ToTensor, Normalize with ImageNet's numbers: (3, 128, 128)."""
    image = image.convert("RGB")
    w, h = image.size
    size = (146, int(146 * h / w)) if w <= h else (int(146 * w / h), 146)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 128) / 2), round((size[1] - 128) / 2)
    x = np.asarray(image.crop((left, top, left + 128, top + 128)), np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
    std = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray((x - mean) / std)


def clothing(image: Image.Image, mirrored: bool = False) -> NDArray[np.float32]:
    """Return the ten probabilities of the image's centre, or of its mirror image."""
    x = clothing_input(image)
    x = np.ascontiguousarray(x[:, :, ::-1]) if mirrored else x
    return softmax(run("clothing", x[None])[0])


def nuclei_mask(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return labels (H, W) of an image whose sides are multiples of 16."""
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return np.asarray(run("nuclei", x)[0].argmax(axis=0))
