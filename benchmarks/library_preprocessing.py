"""Preprocessing by the libraries themselves: an image (H, W, 3) RGB -> what the model is given, (C, H, W) float32."""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
Library = Callable[[Pixels], Values]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BYTES_MEAN, BYTES_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def on_images(transform: Callable[[Image.Image], Any]) -> Library:
    """A transform of Pillow's images that returns a tensor."""
    return lambda image: np.asarray(transform(Image.fromarray(image)))


def planes(image: Pixels) -> Values:
    """(H, W, C) bytes -> (C, H, W) from 0 to 255."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)


def weights() -> Library:
    return on_images(import_module("torchvision.models").ResNet50_Weights.DEFAULT.transforms())


def capped() -> Library:
    transforms = import_module("torchvision.transforms")
    return on_images(transforms.Compose([transforms.Resize(800, max_size=1333), transforms.ToTensor()]))


def timm(size: tuple[int, int], mode: str, share: float) -> Library:
    factory = import_module("timm.data.transforms_factory")
    return on_images(
        factory.transforms_imagenet_eval(
            size, crop_pct=share, crop_mode=mode, interpolation="bicubic", mean=MEAN, std=STD, use_prefetcher=False
        )
    )


def detr() -> Library:
    module = import_module("transformers.models.detr.image_processing_pil_detr")
    processor = module.DetrImageProcessorPil()
    return on_images(lambda image: processor(images=image, return_tensors="np")["pixel_values"][0])


def letterbox(height: int, width: int) -> Library:
    box = import_module("ultralytics.data.augment").LetterBox((height, width))
    return lambda image: planes(box(image=np.ascontiguousarray(image[..., ::-1]))[..., ::-1]) / np.float32(255)


def ultralytics_classify() -> Library:
    return on_images(import_module("ultralytics.data.augment").classify_transforms(224))


def yolox() -> Library:
    preproc = import_module("yolox.data.data_augment").preproc
    return lambda image: np.asarray(preproc(np.ascontiguousarray(image[..., ::-1]), (416, 640))[0])


class OpenMMLab:
    """Transforms of mmcv, from which mmdet's and mmseg's inherit, and the preprocessor of mmengine: BGR bytes."""

    def __init__(self, transforms: list[tuple[str, dict[str, Any]]], **preprocessor: Any) -> None:
        module = import_module("mmcv.transforms")
        self._torch = import_module("torch")
        self._transforms = [getattr(module, name)(**arguments) for name, arguments in transforms]
        self._preprocessor = import_module("mmengine.model").ImgDataPreprocessor(**preprocessor)

    def __call__(self, image: Pixels) -> Values:
        results: dict[str, Any] = {"img": np.ascontiguousarray(image[..., ::-1]), "img_shape": image.shape[:2]}
        for transform in self._transforms:
            results = transform(results)
        tensor = self._torch.from_numpy(np.ascontiguousarray(results["img"].transpose(2, 0, 1)))
        return np.asarray(self._preprocessor({"inputs": [tensor]})["inputs"][0])


def mmdet() -> Library:
    resize = ("Resize", {"scale": (1333, 800), "keep_ratio": True})
    return OpenMMLab([resize], mean=BYTES_MEAN, std=BYTES_STD, bgr_to_rgb=True, pad_size_divisor=32)


def rtmdet() -> Library:
    resize = ("Resize", {"scale": (640, 640), "keep_ratio": True})
    pad = ("Pad", {"size": (640, 640), "pad_val": {"img": (114, 114, 114)}})
    return OpenMMLab([resize, pad], mean=BYTES_MEAN[::-1], std=BYTES_STD[::-1])


def mmseg() -> Library:
    resize = ("Resize", {"scale": (2048, 512), "keep_ratio": True})
    return OpenMMLab([resize], mean=BYTES_MEAN, std=BYTES_STD, bgr_to_rgb=True)


def detectron2() -> Library:
    """By the rule in `ResizeShortestEdge.get_transform` and `ImageList.from_tensors`: the package is not on PyPI."""
    return partial(_detectron2, short=800, longest=1333)


def _detectron2(image: Pixels, short: int, longest: int) -> Values:
    height, width = image.shape[:2]
    scale = short / min(height, width)
    sides = (float(short), scale * width) if height < width else (scale * height, float(short))
    if max(sides) > longest:
        shrink = longest / max(sides)
        sides = (sides[0] * shrink, sides[1] * shrink)
    rows, columns = int(sides[0] + 0.5), int(sides[1] + 0.5)
    resized = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    mean = np.array(BYTES_MEAN[::-1], np.float32).reshape(3, 1, 1)
    return _padded(planes(resized[..., ::-1]) - mean, math.ceil(rows / 32) * 32, math.ceil(columns / 32) * 32)


def _padded(values: Values, height: int, width: int) -> Values:
    padded = np.zeros((len(values), height, width), np.float32)
    padded[:, : values.shape[1], : values.shape[2]] = values
    return padded


def sam() -> Library:
    """`ResizeLongestSide`, and `Sam.preprocess` without the model."""
    resize = import_module("segment_anything.utils.transforms").ResizeLongestSide(1024)
    torch, kind = import_module("torch"), import_module("segment_anything.modeling.sam").Sam
    values = [torch.tensor(numbers).view(-1, 1, 1) for numbers in (BYTES_MEAN, BYTES_STD)]

    class Encoder:
        img_size = 1024

    class Model:
        pixel_mean, pixel_std, image_encoder = *values, Encoder

    return lambda image: np.asarray(kind.preprocess(Model, torch.from_numpy(planes(resize.apply_image(image)))))


def tensor_resize(module: str, antialias: bool) -> Library:
    resize, torch = import_module(module).resize, import_module("torch")

    def resized(image: Pixels) -> Values:
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return np.asarray(resize(tensor, [224, 320], antialias=antialias)).astype(np.float32) / np.float32(255)

    return resized


def rcnn() -> Library:
    module, torch = import_module("torchvision.models.detection.transform"), import_module("torch")
    transform = module.GeneralizedRCNNTransform(800, 1333, MEAN, STD).eval()
    return lambda image: np.asarray(transform([torch.from_numpy(planes(image)) / 255])[0].tensors[0])


LIBRARIES: dict[str, Callable[[], Library]] = {
    "weights": weights,
    "capped": capped,
    "timm_center": partial(timm, (224, 224), "center", 0.875),
    "timm_squash": partial(timm, (224, 192), "squash", 0.9),
    "timm_cover": partial(timm, (160, 240), "center", 0.9),
    "detr": detr,
    "letterbox": partial(letterbox, 640, 640),
    "letterbox_wide": partial(letterbox, 384, 672),
    "ultralytics_classify": ultralytics_classify,
    "yolox": yolox,
    "mmdet": mmdet,
    "rtmdet": rtmdet,
    "mmseg": mmseg,
    "detectron2": detectron2,
    "sam": sam,
    "tensor_plain": partial(tensor_resize, "torchvision.transforms.functional", False),
    "tensor_antialiased": partial(tensor_resize, "torchvision.transforms.v2.functional", True),
    "rcnn": rcnn,
}
"""Each returns the library's preprocessing; ImportError without the library."""
