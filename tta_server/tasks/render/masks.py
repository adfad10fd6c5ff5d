"""Results of segmentation, rendered."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.imaging.decoding import Pixels
from tta_server.tasks.base import ResponseSpec, Tensors
from tta_server.tasks.masks.results import (
    MaskResult,
    MultilabelSegmentationResult,
    ProbabilityMaps,
    SegmentationResult,
)
from tta_server.tasks.render.palette import blended, color_of, grey, palette_image
from tta_server.tasks.render.png import to_base64, to_png
from tta_server.tasks.render.renderer import Renderer
from tta_server.tasks.render.rle import Rle, encode_classes, encode_mask


class SegmentationRenderer(Renderer[SegmentationResult]):
    def prediction(self, result: SegmentationResult, spec: ResponseSpec) -> dict[str, Any]:
        return _header(result, result.mask.shape) | self._masks(result, spec) | _included(result, spec)

    def _masks(self, result: SegmentationResult, spec: ResponseSpec) -> dict[str, Any]:
        if spec.masks == "png":
            return {"mask": to_base64(self.picture(result))}
        encoded = encode_classes(result.mask, range(len(result.labels)))
        return {"masks": dict(zip(result.labels, encoded, strict=True))}

    def views(self, result: SegmentationResult) -> list[dict[str, Any]]:
        return [{"agreement": share} for share in result.view_agreements]

    def tensors(self, result: SegmentationResult, names: frozenset[str]) -> Tensors:
        return {"MASK": result.mask} | _maps(result, names)

    def lines(self, result: SegmentationResult, top_k: int) -> list[str]:
        return _lines(result, result.mask.shape)

    def picture(self, result: SegmentationResult) -> bytes:
        return to_png(palette_image(result.mask, len(result.labels)))

    def paint(self, result: SegmentationResult, pixels: Pixels) -> Pixels:
        """Every class but the first, half transparent; pixels of no class are left as they are."""
        classes = len(result.labels)
        colors = np.array([color_of(index) for index in range(classes)], np.uint8)
        shown = (result.mask > 0) & (result.mask < classes)
        return np.where(shown[..., None], blended(pixels, colors[np.minimum(result.mask, classes - 1)]), pixels)


class MultilabelSegmentationRenderer(Renderer[MultilabelSegmentationResult]):
    def prediction(self, result: MultilabelSegmentationResult, spec: ResponseSpec) -> dict[str, Any]:
        encode: Callable[[NDArray[np.bool_]], str | Rle] = _png if spec.masks == "png" else encode_mask
        masks = {label: encode(mask) for label, mask in zip(result.labels, result.masks, strict=True)}
        return _header(result, result.masks.shape[1:]) | {"masks": masks} | _included(result, spec)

    def views(self, result: MultilabelSegmentationResult) -> list[dict[str, Any]]:
        return []

    def tensors(self, result: MultilabelSegmentationResult, names: frozenset[str]) -> Tensors:
        return {"MASKS": result.masks} | _maps(result, names)

    def lines(self, result: MultilabelSegmentationResult, top_k: int) -> list[str]:
        return _lines(result, result.masks.shape[1:])

    def paint(self, result: MultilabelSegmentationResult, pixels: Pixels) -> Pixels:
        """Each label in turn, half transparent."""
        for index, mask in enumerate(result.masks, start=1):
            pixels = np.where(mask[..., None], blended(pixels, np.array(color_of(index), np.uint8)), pixels)
        return pixels


def _png(mask: NDArray[np.bool_]) -> str:
    return to_base64(to_png(Image.fromarray(mask)))


def _header(result: MaskResult, shape: Sequence[int]) -> dict[str, Any]:
    return {"height": shape[0], "width": shape[1], "area": _areas(result)}


def _areas(result: MaskResult) -> Mapping[str, int]:
    return {label: int(area) for label, area in zip(result.labels, result.area, strict=True)}


def _included(result: MaskResult, spec: ResponseSpec) -> dict[str, Any]:
    included: dict[str, Any] = {}
    if "agreement" in spec.include and result.agreement is not None:
        included["mean_agreement"] = float(result.agreement.mean())
        included["agreement"] = to_base64(to_png(grey(result.agreement)))
    if "probabilities" in spec.include and result.probability_maps is not None:
        included["probabilities"] = {
            label: to_base64(to_png(_levels(result.probability_maps, index)))
            for index, label in enumerate(result.labels)
        }
    return included


def _levels(maps: ProbabilityMaps, index: int) -> Image.Image:
    """One label's probabilities as 16 bit grey, 65535 for certainty."""
    size = maps.frame.image
    levels = np.empty((size.height, size.width), np.uint16)
    for rows, strip in maps.strips(slice(index, index + 1)):
        levels[rows] = np.rint(strip[0] * 65535)
    return Image.fromarray(levels)


def _maps(result: MaskResult, names: frozenset[str]) -> Tensors:
    found: Tensors = {"AREA": result.area}
    if "AGREEMENT" in names and result.agreement is not None:
        found["AGREEMENT"] = result.agreement
    if "PROBABILITIES" in names and result.probability_maps is not None:
        found["PROBABILITIES"] = result.probability_maps.whole()
    return found


def _lines(result: MaskResult, shape: Sequence[int]) -> list[str]:
    shares = sorted(_areas(result).items(), key=lambda entry: -entry[1])
    return [f"{label} {pixels / (shape[0] * shape[1]):.1%}" for label, pixels in shares if pixels]
