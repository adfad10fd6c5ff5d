"""The composition root: settings to objects. Whoever opens closes."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

import cv2
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tta_server.canary import Canary
from tta_server.cores import available_cores
from tta_server.costs import CostModel
from tta_server.engine import Engine
from tta_server.errors import ConfigError, NotReady, Overloaded, UnknownModel, shown
from tta_server.health import Health
from tta_server.imaging.decoding import Limits
from tta_server.jobs import Bounds
from tta_server.metrics import Metrics
from tta_server.niceness import PREPARATION, lower_priority
from tta_server.predictor import Predictor
from tta_server.repository import Model, find_models, load_model
from tta_server.runner import ModelRunner
from tta_server.scheduler import Scheduler
from tta_server.statistics import Statistics
from tta_server.warmup import warm_up, warm_up_beside_requests
from tta_server.work import ImageWork

PACKAGE = Path(__file__).parent
BUNDLED = next((p for p in (PACKAGE / "models", PACKAGE.parent / "models") if p.is_dir()), Path("models"))
"""The models that come with the package, or with a checkout."""


ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[(?P<ipv6>[0-9a-f:.]+)\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _is_origin(text: str) -> bool:
    found = ORIGIN.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    try:
        return found["ipv6"] is None or str(IPv6Address(found["ipv6"])) == found["ipv6"]
    except ValueError:
        return False


def read_origin(text: str) -> str:
    """As browsers write it: lower case, no default port. Raises ValueError."""
    origin = text.lower() if text.isascii() else text
    if origin != "*" and not _is_origin(origin):
        raise ValueError(
            f"{shown(text)} is no origin; it takes scheme://host or scheme://host:port, like https://example.org, or "
            "*; several are separated by spaces, not commas, and a host is written in ASCII (xn--...)"
        )
    return origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], ""))


class Settings(BaseModel):
    """Everything that a deployment may set; the command line and `TTA_...` variables fill it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Path = BUNDLED
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    grpc: bool = True
    grpc_port: int = Field(default=8001, ge=0, le=65_535)
    slots: int = Field(default_factory=available_cores, ge=1, le=1024)
    max_bytes: int = Field(default=20_000_000, ge=1_000)
    max_pixels: int = Field(default=25_000_000, ge=1)
    max_waiting: int = Field(default=1024, ge=1)
    max_waiting_mb: int = Field(default=1000, ge=1)
    max_batch: int = Field(default=64, ge=1)
    max_connections: int = Field(default=1024, ge=1)
    receive_seconds: float = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=10.0, ge=0)
    keys: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    model_control: bool = False
    cors_origin: tuple[Annotated[str, AfterValidator(read_origin)], ...] = ()

    @property
    def limits(self) -> Limits:
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)


def tame_libraries() -> None:
    """For a process of our own, since these are settings of all of it: our threads are the only parallelism, and of
    broken and huge images our errors tell. A program that uses us as a library keeps its own settings."""
    Image.MAX_IMAGE_PIXELS = None
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _prepare(folder: Path) -> tuple[Model, CostModel]:
    """Loads a model and measures what it costs. Raises ConfigError."""
    model, costs = load_model(folder), CostModel()
    try:
        warm_up_beside_requests(model, costs)
    except BaseException:
        model.retire()
        raise
    return model, costs


class Application:
    """Models, a pool of slots and the predictor over them. Open it with `load`, warm it, then `close` it."""

    def __init__(self, settings: Settings, models: Sequence[Model]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.statistics = Statistics()
        self.models = {model.name: model for model in models}
        for model in models:
            model.open()
        self._runner = ModelRunner(self.statistics)
        self._runners = dict.fromkeys(self.models, self._runner)
        self._loading = threading.Lock()
        self._costs = CostModel()
        bounds = Bounds(settings.max_waiting, settings.max_waiting_mb * 1_000_000)
        self.health = Health()
        self.on_fatal: Callable[[str], None] = lambda reason: None
        self._engine: Engine[ImageWork] = Engine(
            Scheduler(self._costs, settings.slots, bounds),
            self._runners,
            self.metrics,
            self.health,
            lambda reason: self.on_fatal(reason),
        )
        self.predictor = Predictor(
            self.models, self._engine, settings.limits, self.metrics, self.health, self.statistics
        )
        self._canary = Canary(self.predictor, self.health)
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
        """Whether this model's requests are taken."""
        return self.ready and name in self.models and name not in self.health.ill

    @classmethod
    def load(cls, settings: Settings) -> "Application":
        """Loads every model of the folder; raises ConfigError."""
        return cls(settings, [load_model(folder) for folder in find_models(settings.models)])

    def warm(self) -> None:
        """Measures every model, then opens for requests, unless `closing` is set meanwhile. Raises ConfigError."""
        for model in list(self.models.values()):
            warm_up(model, self._costs, self.settings.slots)
            if self.closing:
                return
        self._engine.start()
        self._canary.start()
        self._warmed = True

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._warmed and not self.closing

    def check_ready(self) -> None:
        """Raises NotReady."""
        if not self.ready:
            raise NotReady("the server is not ready: models are being warmed, or it is shutting down")

    def stored(self) -> list[str]:
        """The models of the folder by name, loaded or not."""
        try:
            found = {path.name for path in find_models(self.settings.models)}
        except ConfigError:
            found = set()
        return sorted(found | set(self.models))

    def load_model(self, name: str) -> None:
        """Loads a model of the folder, anew if it is loaded already: its old form serves until the new one is warm.
        Raises UnknownModel, ConfigError, or Overloaded while another is loaded; then nothing has changed."""
        if name not in self.stored():
            raise UnknownModel(f"there is no model {name[:64]!r} to load; there are {', '.join(self.stored())}")
        with self._one_at_a_time():
            with ThreadPoolExecutor(1, "preparation", lower_priority, (PREPARATION,)) as thread:
                model, costs = thread.submit(_prepare, self.settings.models / name).result()
            self._engine.reprice(name, costs)
            self._runners[name] = self._runner
            before, self.models[name] = self.models.get(name), model
            if before is not None:
                before.retire()
            self.statistics.forget(model.key)
            self.health.worked(name)
            self._add_model_gauge(name)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._loading.acquire(blocking=False):
            raise Overloaded("a model is being loaded; come back when that is done", 1.0)
        try:
            yield
        finally:
            self._loading.release()

    def unload_model(self, name: str) -> None:
        """Takes no more requests for it; those admitted are answered. Raises UnknownModel."""
        with self._one_at_a_time():
            model = self.predictor.model(name)
            del self.models[name]
            model.retire()

    def retire(self) -> None:
        """Takes nobody in any more."""
        self.closing = True

    def close(self) -> None:
        """Answers what was admitted, for `drain_seconds` at most, and stops."""
        self.retire()
        self._canary.close()
        self._engine.drain(self.settings.drain_seconds)
        for model in list(self.models.values()):
            model.retire()
