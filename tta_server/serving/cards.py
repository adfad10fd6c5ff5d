"""Test images, and a model's outputs for them."""

from collections.abc import Callable, Mapping

import numpy as np
import simplejpeg

from tta_server.imaging.decoding import Pixels
from tta_server.repository.model import WARM_SIZE, Model
from tta_server.serving.executor import infer
from tta_server.serving.image import ImageViews, Source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks import Outputs
from tta_server.tasks.checks import CardRun
from tta_server.views.geometry import Size


def card_size(model: Model) -> Size:
    """Size of a test image: about that of a usual request's."""
    prep = model.preprocessing
    return Size(2 * prep.size.width, 2 * prep.size.height) if prep.size else WARM_SIZE


def _photo(size: Size) -> Pixels:
    """Gradients and grain, which decode like a photo."""
    x, y = np.meshgrid(np.linspace(0, 200, size.width), np.linspace(0, 200, size.height))
    grain = np.random.default_rng(0).normal(0, 8, (size.height, size.width))
    card = np.stack([x, y, (x + y) / 2], axis=2) + grain[..., None]
    return np.clip(card, 0, 255).astype(np.uint8)


def _noise(size: Size) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (size.height, size.width, 3), np.uint8)


def _plain(level: int) -> Callable[[Size], Pixels]:
    return lambda size: np.full((size.height, size.width, 3), level, np.uint8)


CARDS: Mapping[str, Callable[[Size], Pixels]] = {
    "photo": _photo,
    "noise": _noise,
    "grey": _plain(128),
    "black": _plain(0),
    "white": _plain(255),
    "dim photo": lambda size: _photo(size) // 8,
}


def make_test_card(model: Model) -> bytes:
    """The card `photo` as a JPEG of about the size of a usual request's image."""
    return bytes(simplejpeg.encode_jpeg(_photo(card_size(model)), 90))


class CardRunner:
    """Runs the plain view of test images through a model, with the code of requests."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._plan = make_plan(model, Options(max_views=1, min_views=1, stop="all"))
        self._views: dict[tuple[str, Size], ImageViews] = {}
        self.size = card_size(model)

    def views(self, card: str, size: Size | None = None) -> ImageViews:
        """The views of a card of that size, by default the usual one; made once."""
        key = card, size or self.size
        if key not in self._views:
            views = ImageViews(self._plan, make_layout(self._plan, key[1]), key[1])
            views.decode(Source(key[1], pixels=CARDS[card](key[1])))
            self._views[key] = views
        return self._views[key]

    def run(self, card: str, size: Size | None = None) -> CardRun:
        """Raises any error of the model."""
        views = self.views(card, size)
        return CardRun(card, infer([(views, 0)]), views.input_size(0))

    def run_together(self, *cards: str) -> Outputs:
        """Outputs of one batch. Raises any error of the model."""
        return infer([(self.views(card), 0) for card in cards])

    def accepts(self, size: Size) -> bool:
        """Whether the model file runs an input of this size."""
        try:
            self._model.backend.infer(np.zeros_like(self._model.preprocessing.empty(1, size)))
        except Exception:  # noqa: BLE001 - that is the answer
            return False
        return True
