"""The renderer seam: what one type of result is sent as."""

from typing import Any, Protocol, TypeVar

from tta_server.imaging.decoding import Pixels
from tta_server.tasks.base import ResponseSpec, Result, Tensors

R_contra = TypeVar("R_contra", bound=Result, contravariant=True)


class Renderer(Protocol[R_contra]):
    """Has no state; what it returns is its own, the result stays as it was."""

    def prediction(self, result: R_contra, spec: ResponseSpec) -> dict[str, Any]:
        """The `prediction` of the JSON answer: dicts, lists, texts, numbers; images as base64 of PNG."""

    def views(self, result: R_contra) -> list[dict[str, Any]]:
        """What the receipt says of each view's own result."""

    def tensors(self, result: R_contra, names: frozenset[str]) -> Tensors:
        """The task's `tensor_specs` with these names, at least."""

    def lines(self, result: R_contra, top_k: int) -> list[str]:
        """The result in a few short lines, the most important first."""

    def picture(self, result: R_contra) -> bytes | None:
        """A PNG that is the whole result; None where there is none."""
        return None

    def paint(self, result: R_contra, pixels: Pixels) -> Pixels:
        """The result painted on the image (H, W, 3) uint8; the image itself where it has no place there."""
        return pixels
