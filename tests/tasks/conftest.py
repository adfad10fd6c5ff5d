"""Models behind one slot each, for tests that compare renderings of the same answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.onnx_models import detector, write_model
from tests.support.patterns import noise
from tests.support.references import MODELS
from tests.tasks.boxes.test_detection_served import CONFIG as BRIGHT
from tests.tasks.boxes.test_detection_served import lit
from tests.tasks.test_every_task import TINY
from tta_server.application import Application
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings
from tta_server.tasks import ResponseFormat
from tta_server.views.geometry import Size

TOYS = {**TINY, "detection": (detector(), {**BRIGHT, "limits": {"rotate": 45}})}
EVERYTHING = Options(budget_ms=10_000, policy="d4", min_views="all", stop="all")


class Asked:
    """One model on one slot, so that equal requests are merged in the same order."""

    def __init__(self, folder: Path) -> None:
        self._application = Application(Settings(models=folder.parent, slots=1), [load_model(folder)])
        self._application.warm()
        self.name = folder.name
        self.close = self._application.close

    @property
    def model(self) -> Model:
        return self._application.models[self.name]

    def answer(self, image: np.ndarray, **more: Any) -> Answer:
        options = replace(EVERYTHING, **{"format": ResponseFormat.ARRAYS, **more})
        return self._application.predictor.submit(self.name, image, options, Caller("test")).future.result()

    def tensors(self, image: np.ndarray, names: Sequence[str] = (), **more: Any) -> dict[str, np.ndarray]:
        names = names or [spec.name for spec in self.model.task.tensor_specs]
        found = self.answer(image, tensors=frozenset(names), **more)
        assert set(found.tensors) == set(names)
        assert (found.prediction, found.picture) == ({}, None)
        return dict(found.tensors)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Asked]]:
    """Loads each toy, or bundled model, once."""
    loaded: dict[str, Asked] = {}

    def load(name: str) -> Asked:
        if name not in loaded:
            folder = MODELS / name
            if name in TOYS:
                folder = write_model(tmp_path_factory.mktemp("models") / name.replace(" ", "-"), *TOYS[name])
            loaded[name] = Asked(folder)
        return loaded[name]

    yield load
    for model in loaded.values():
        model.close()


RECTANGLES = (0, (3, 4, 20, 12), 255), (2, (1, 2, 9, 9), 200)


def picture(name: str, seed: int = 0) -> np.ndarray:
    size = Size(45, 31)
    return lit(size, *RECTANGLES) if name == "detection" else noise(size, seed=seed)
