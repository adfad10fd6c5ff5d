"""The composition root: makes the objects of a server from its settings."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
from PIL import Image

from tta_server.errors import ConfigError, NotReady, Overloaded, UnknownModel
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Model
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.jobs import Bounds
from tta_server.scheduling.scheduler import Scheduler
from tta_server.serving.engine import Engine
from tta_server.serving.executor import Executor
from tta_server.serving.health import Health
from tta_server.serving.job import ImageJob
from tta_server.serving.niceness import PREPARATION_NICENESS, lower_priority
from tta_server.serving.predictor import Predictor
from tta_server.serving.probe import ModelProbe
from tta_server.serving.warmup import warm_up, warm_up_beside_requests
from tta_server.settings import Settings
from tta_server.telemetry.logs import DoubtLog, RequestLog
from tta_server.telemetry.observer import Observers, ReceiptTimings
from tta_server.telemetry.prometheus import Metrics
from tta_server.telemetry.statistics import Statistics


def configure_libraries() -> None:
    """Sets process-wide options of OpenCV and Pillow: no threads, limits or messages beside our own.

    For the commands; a program that uses the package as a library keeps its own options.
    """
    Image.MAX_IMAGE_PIXELS = None
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _prepare(folder: Path) -> tuple[Model, CostModel]:
    """Loads a model and measures its costs. Raises ConfigError."""
    model, costs = load_model(folder), CostModel()
    try:
        warm_up_beside_requests(model, costs)
    except BaseException:
        model.retire()
        raise
    return model, costs


class Application:
    """Models, a pool of slots and the predictor over them: `load` it, `warm` it, then `close` it.

    `on_fatal` is called with a sentence when only a new process can serve again.
    """

    def __init__(self, settings: Settings, models: Sequence[Model]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.statistics = Statistics()
        self.models = {model.name: model for model in models}
        for model in models:
            model.open()
        self.observer = Observers(self.metrics, self.statistics, ReceiptTimings(), RequestLog(), DoubtLog())
        self._executor = Executor(self.observer)
        self._executors = dict.fromkeys(self.models, self._executor)
        self._loading = threading.Lock()
        self._costs = CostModel()
        bounds = Bounds(settings.max_waiting, settings.max_waiting_mb * 1_000_000)
        self.health = Health()
        self.on_fatal: Callable[[str], None] = lambda reason: None
        self._engine: Engine[ImageJob] = Engine(
            Scheduler(self._costs, settings.slots, bounds),
            self._executors,
            self.observer,
            self.health,
            lambda reason: self.on_fatal(reason),
        )
        self.predictor = Predictor(self.models, self._engine, settings.limits, self.observer, self.health)
        self._probe = ModelProbe(self.predictor, self.health)
        self._add_gauges()
        self._warmed = False
        self.closing = False

    def _add_gauges(self) -> None:
        gauge, backlog = self.metrics.gauge, self._engine.backlog
        gauge("tta_jobs", "Images admitted and not yet answered", lambda: backlog().jobs)
        gauge("tta_backlog_seconds", "Mandatory work that waits, in seconds of one slot", lambda: backlog().seconds)
        gauge("tta_backlog_bytes", "Memory set aside for images not yet answered", lambda: backlog().nbytes)
        for name in self.models:
            self._add_model_gauge(name)

    def _add_model_gauge(self, name: str) -> None:
        about = "1 while the model works, 0 when it is unhealthy or not loaded"
        self.metrics.gauge("tta_model_ready", about, partial(self.is_ready, name), model=name)

    def is_ready(self, name: str) -> bool:
        """True if the model's requests are admitted."""
        return self.ready and name in self.models and name not in self.health.unhealthy

    @classmethod
    def load(cls, settings: Settings) -> "Application":
        """Loads every model of the folder. Raises ConfigError."""
        return cls(settings, [load_model(folder) for folder in find_models(settings.models)])

    def warm(self) -> None:
        """Measures every model, then admits requests, unless `closing` is set meanwhile. Raises ConfigError."""
        for model in list(self.models.values()):
            warm_up(model, self._costs, self.settings.slots)
            if self.closing:
                return
        self._engine.start()
        self._probe.start()
        self._warmed = True

    @property
    def ready(self) -> bool:
        """True if requests are admitted."""
        return self._warmed and not self.closing

    def check_ready(self) -> None:
        """Raises NotReady."""
        if not self.ready:
            raise NotReady("the server is not ready: models are being warmed, or it is shutting down")

    def model_names(self) -> list[str]:
        """Of the models in the folder, loaded or not."""
        try:
            found = {path.name for path in find_models(self.settings.models)}
        except ConfigError:
            found = set()
        return sorted(found | set(self.models))

    def load_model(self, name: str) -> None:
        """Loads or reloads a model of the folder; a loaded version serves until the new one is warm.

        Raises UnknownModel, ConfigError, and Overloaded while another model is loaded; then nothing has changed.
        """
        if name not in self.model_names():
            raise UnknownModel(f"there is no model {name[:64]!r} to load; there are {', '.join(self.model_names())}")
        with self._exclusive_loading():
            with ThreadPoolExecutor(1, "preparation", lower_priority, (PREPARATION_NICENESS,)) as thread:
                model, costs = thread.submit(_prepare, self.settings.models / name).result()
            self._engine.reprice(name, costs)
            self._executors[name] = self._executor
            previous, self.models[name] = self.models.get(name), model
            if previous is not None:
                previous.retire()
            self.statistics.forget(model.key)
            self.health.worked(name)
            self._add_model_gauge(name)

    @contextmanager
    def _exclusive_loading(self) -> Iterator[None]:
        if not self._loading.acquire(blocking=False):
            raise Overloaded("another model is being loaded; retry when that is done", 1.0)
        try:
            yield
        finally:
            self._loading.release()

    def unload_model(self, name: str) -> None:
        """Admits no more requests for the model; those admitted are answered. Raises UnknownModel."""
        with self._exclusive_loading():
            model = self.predictor.model(name)
            del self.models[name]
            model.retire()

    def stop_admitting(self) -> None:
        """Admits no more requests."""
        self.closing = True

    def close(self) -> None:
        """Answers admitted requests, for at most `drain_seconds`, then stops."""
        self.stop_admitting()
        self._probe.close()
        self._engine.drain(self.settings.drain_seconds)
        for model in list(self.models.values()):
            model.retire()
