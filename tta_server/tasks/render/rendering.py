"""What a result is sent as, made by the renderer of its type: a new task adds one entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from tta_server.imaging.decoding import Pixels
from tta_server.tasks.base import ResponseFormat, ResponseSpec, Result
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.tasks.embedding import EmbeddingResult
from tta_server.tasks.masks.results import MultilabelSegmentationResult, SegmentationResult
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.regression import RegressionResult
from tta_server.tasks.render.boxes import DetectionRenderer
from tta_server.tasks.render.masks import MultilabelSegmentationRenderer, SegmentationRenderer
from tta_server.tasks.render.png import to_base64, to_png
from tta_server.tasks.render.points import KeypointsRenderer
from tta_server.tasks.render.renderer import Renderer
from tta_server.tasks.render.scores import ClassificationRenderer, MultilabelRenderer
from tta_server.tasks.render.values import EmbeddingRenderer, RegressionRenderer
from tta_server.tasks.scores.results import ClassificationResult, MultilabelResult

RENDERERS: dict[type[Result], Renderer[Any]] = {
    ClassificationResult: ClassificationRenderer(),
    MultilabelResult: MultilabelRenderer(),
    RegressionResult: RegressionRenderer(),
    EmbeddingResult: EmbeddingRenderer(),
    SegmentationResult: SegmentationRenderer(),
    MultilabelSegmentationResult: MultilabelSegmentationRenderer(),
    DetectionResult: DetectionRenderer(),
    KeypointsResult: KeypointsRenderer(),
}

DRAWING = "drawing"
"""What a request includes to get the result painted on its image, as base64 of a PNG."""


def renderer_of(result: Result) -> Renderer[Any]:
    return RENDERERS[type(result)]


def lines_of(result: Result, top_k: int) -> list[str]:
    """The result in a few short lines, the most important first; of classes at most `top_k`."""
    return renderer_of(result).lines(result, top_k)


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was made of a result; `result` is None unless it is kept."""

    prediction: dict[str, Any] = field(default_factory=dict)
    picture: bytes | None = None
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    result: Any = None


@dataclass(frozen=True, eq=False)
class RenderedLazily:
    """A result, and what is made of it when it is first read, on the reader's thread.

    `pixels` is the image to paint the result on, None where no drawing is included.
    """

    result: Result
    spec: ResponseSpec
    pixels: Pixels | None = None

    @cached_property
    def prediction(self) -> dict[str, Any]:
        return _prediction(self.result, self.spec, self.pixels)

    @cached_property
    def picture(self) -> bytes | None:
        return renderer_of(self.result).picture(self.result)

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        return {}


Rendering = Rendered | RenderedLazily

FORMATS: Mapping[ResponseFormat, Callable[[Result, ResponseSpec, Pixels | None], Rendering]] = {
    ResponseFormat.JSON: lambda result, spec, pixels: Rendered(_prediction(result, spec, pixels)),
    ResponseFormat.PNG: lambda result, spec, pixels: Rendered(picture=renderer_of(result).picture(result)),
    ResponseFormat.ARRAYS: RenderedLazily,
}


def render(result: Result, spec: ResponseSpec, pixels: Pixels | None = None) -> Rendering:
    """The result as `spec` asks for it; `pixels` (H, W, 3) uint8 is the image where a drawing is included."""
    if spec.tensors:
        tensors = renderer_of(result).tensors(result, spec.tensors)
        return Rendered(tensors={name: tensors[name] for name in spec.tensors})
    return FORMATS[spec.format](result, spec, pixels)


def _prediction(result: Result, spec: ResponseSpec, pixels: Pixels | None) -> dict[str, Any]:
    renderer = renderer_of(result)
    prediction = renderer.prediction(result, spec)
    if pixels is not None:
        painted = renderer.paint(result, pixels)
        prediction[DRAWING] = to_base64(to_png(Image.fromarray(painted)))
    return prediction
