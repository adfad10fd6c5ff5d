"""Batches of the server's own code without its threads: a model folder, images, and the executor that requests use."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from benchmarks.device_steps.card import has
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import VIEWS, Setting
from benchmarks.server import DATA, MODELS
from loadtest.cases import clothing_images
from tta_server.backends import BACKENDS
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.serving.executor import BatchOfViews, Entries
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import ImageViews, read_source
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan

PHOTOS = 32
PHOTO_SIZE = (400, 533)


def photos(setting: Setting) -> list[Path]:
    """Labelled JPEG photos; where there are none, the drawn sample as large as they are."""
    found = clothing_images(DATA, MODELS)[:PHOTOS]
    if len(found) > 1:
        return found
    path = setting.scratch / "photos" / "sample.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(found[0]).convert("RGB").resize(PHOTO_SIZE).save(path, quality=90)
    return [path]


def backends(setting: Setting, report: Report) -> list[str]:
    """Names of the server's backends that can run the nets here; for others a line says why not."""
    found = ["onnxruntime"]
    if "torch" not in BACKENDS:
        report.skip("torch backend", "this version of the server has none")
    elif not has("torch"):
        report.skip("torch backend", "torch is not installed")
    else:
        found.append("torch")
    return found


class Batches:
    """A loaded net and the views of some images, to be run in batches on the calling thread."""

    def __init__(self, folder: Path, images: Sequence[Path], rows: int) -> None:
        """With enough images for batches of `rows`; some are taken several times."""
        self.model: Model = load_model(folder)
        self._executor = ModelExecutor()
        plan = make_plan(self.model, Options(max_views=VIEWS, min_views="all", stop="all"))
        self._entries: list[tuple[ImageViews, int]] = []
        for number in range(-(-rows // VIEWS)):
            source = read_source(images[number % len(images)].read_bytes(), Limits())
            views = ImageViews(plan, make_layout(plan, source.size), source.size)
            views.decode(source)
            self._entries += [(views, entry) for entry in range(VIEWS)]

    def batch(self, rows: int) -> Callable[[], BatchOfViews]:
        """An action that makes, runs and sums a batch of this size."""
        entries: Entries = self._entries[:rows]
        return lambda: self._executor.run(entries)

    def close(self) -> None:
        self.model.retire()


def with_backend(source: Path, target: Path, backend: Mapping[str, Any]) -> Path:
    """A copy of a model folder with another `backend`, which links its files; calibrations are left out."""
    config = yaml.safe_load((source / "tta.yaml").read_text()) | {"backend": dict(backend)}
    target.mkdir(parents=True)
    (target / "tta.yaml").write_text(yaml.safe_dump(config))
    (target / "1").symlink_to((source / "1").resolve())
    return target
