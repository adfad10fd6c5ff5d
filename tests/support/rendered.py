"""A task's result with all that is rendered of it."""

from dataclasses import dataclass
from typing import Any

from tta_server.tasks import ResponseSpec, Result
from tta_server.tasks.render.rendering import lines_of, renderer_of


@dataclass(frozen=True)
class Rendered:
    """`views` are what the receipt says of each view."""

    result: Any
    prediction: dict[str, Any]
    views: list[dict[str, Any]]
    picture: bytes | None
    uncertainty: Any
    lines: list[str]


def rendered(result: Result, spec: ResponseSpec | None = None) -> Rendered:
    spec, renderer = spec or ResponseSpec(), renderer_of(result)
    return Rendered(
        result,
        renderer.prediction(result, spec),
        renderer.views(result),
        renderer.picture(result),
        result.uncertainty,
        lines_of(result, spec.top_k),
    )


def paint(result: Result, pixels: Any) -> Any:
    return renderer_of(result).paint(result, pixels)
