"""The composition root: makes the objects of a server from its settings."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from tta_server.backends import CPU, Backend
from tta_server.errors import BackendUnavailable, ConfigError, NotReady, Overloaded, UnknownModel
from tta_server.repository.failure import explain_failure
from tta_server.repository.model import Model
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.jobs import Bounds
from tta_server.serving.cores import available_cores
from tta_server.serving.engine import Engine
from tta_server.serving.folders import ModelFolders
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.health import Health
from tta_server.serving.job import ImageJob
from tta_server.serving.pools import Pools, PoolSize, ServingPool, make_scheduler, pool_sizes
from tta_server.serving.predictor import Predictor
from tta_server.serving.preparation import batch_ladder, prepare
from tta_server.serving.probe import ModelProbe
from tta_server.serving.retries import LoadRetries
from tta_server.serving.runner import ImageRunner
from tta_server.serving.warmup import warm_up
from tta_server.settings import Settings
from tta_server.telemetry.cache_metrics import CacheMetrics
from tta_server.telemetry.logs import DoubtLog, RequestLog
from tta_server.telemetry.observer import Observers, ReceiptTimings
from tta_server.telemetry.prometheus import Metrics
from tta_server.telemetry.statistics import Statistics
from tta_server.telemetry.tracing import NO_TRACER, Tracer

Absent = Sequence[BackendUnavailable]
log = logging.getLogger(__name__)

NOT_READY = "the server is not ready: models are being warmed, or it is shutting down"


class Application:
    """Models, a pool of slots and the predictor over them: `load` it, `warm` it, then `close` it.

    `on_fatal` is called with a sentence when only a new process can serve again.
    """

    def __init__(
        self, settings: Settings, models: Sequence[Model], absent: Absent = (), tracer: Tracer = NO_TRACER
    ) -> None:
        """`absent` are the errors of models that are loaded later: their servers' pools are made now."""
        self.settings = settings
        self.tracer = tracer
        self.folders = ModelFolders(settings.repository, settings.named_folders)
        self.metrics = Metrics()
        self.statistics = Statistics()
        self.models = {model.name: model for model in models}
        for model in models:
            model.open()
        cache_metrics = CacheMetrics(self.metrics.registry)
        sinks = (self.metrics, cache_metrics, self.statistics, ReceiptTimings(), RequestLog(), DoubtLog())
        self.observer = Observers(*sinks, tracer) if tracer.is_on else Observers(*sinks)
        self._runner = ImageRunner(ModelExecutor(), self.observer, tracer)
        self._runners = dict.fromkeys(self.models, self._runner)
        self._loading = threading.Lock()
        self.health = Health()
        self.on_fatal: Callable[[str], None] = lambda reason: None
        sizes = self._pool_sizes([*(model.backend for model in models), *absent])
        self.pools = Pools({device: self._make_pool(size) for device, size in sizes.items()})
        self.predictor = Predictor(
            self.models, self.pools, settings.limits, self.observer, self.health, settings.cache_mb * 1_000_000
        )
        self._probe = ModelProbe(self.predictor, self.health)
        self._retries = LoadRetries(self.load_model, lambda name: name in self.health.load_failures)
        self._add_gauges()
        self._warmed = False
        self.leaving = False
        self.closing = False

    def _pool_sizes(self, backends: Iterable[Backend | BackendUnavailable]) -> dict[str, PoolSize]:
        given, settings = self.settings.model_fields_set, self.settings
        slots = settings.slots if "slots" in given else None
        workers = settings.workers if "workers" in given else None
        permits = {CPU: 0}
        for backend in backends:
            permits[backend.device] = max(backend.permits, permits.get(backend.device, 0))
        return pool_sizes(permits, slots, workers, available_cores())

    def _make_pool(self, size: PoolSize) -> ServingPool:
        costs = CostModel()
        bounds = Bounds(self.settings.max_waiting, self.settings.max_waiting_mb * 1_000_000)
        engine: Engine[ImageJob] = Engine(
            make_scheduler(costs, size, bounds),
            self._runners,
            self.observer,
            self.health,
            lambda reason: self.on_fatal(reason),
        )
        return ServingPool(size, costs, engine)

    def _add_gauges(self) -> None:
        gauge, backlog = self.metrics.gauge, self.pools.backlog
        gauge("tta_jobs", "Images admitted and not yet answered", lambda: backlog().jobs)
        gauge("tta_backlog_seconds", "Mandatory work that waits, in seconds of one slot", lambda: backlog().seconds)
        gauge("tta_backlog_bytes", "Memory set aside for images not yet answered", lambda: backlog().nbytes)
        if self.tracer.is_on:
            self.metrics.counter("tta_dropped_spans", "Spans that no collector took", self.tracer.dropped)
        gauge("tta_cache_bytes", "Memory of the stored answers", lambda: self.predictor.cached_bytes)
        for device, slots in self.pools.slots.items():
            gauge("tta_slots", "Slots, which run batches", partial(float, slots), device=device)
        for name in self.models:
            self._add_model_metrics(name)

    def _add_model_metrics(self, name: str) -> None:
        self.metrics.add_model(name, partial(self.is_ready, name))

    def knows(self, name: str) -> bool:
        """True if the model is loaded or failed to load."""
        return name in self.models or name in self.health.load_failures

    def is_ready(self, name: str) -> bool:
        """True if clients should send the model's requests to this server."""
        return not self.leaving and self.admits(name)

    def admits(self, name: str) -> bool:
        """True if the model's requests are admitted."""
        return self.admitting and name in self.models and name not in self.health.unhealthy

    @property
    def is_serving(self) -> bool:
        """True if at least one model is ready; with `strict`, of every loaded model."""
        states = [self.is_ready(name) for name in list(self.models)]
        return any(states) and (all(states) or not self.settings.strict)

    @classmethod
    def load(cls, settings: Settings, tracer: Tracer = NO_TRACER) -> "Application":
        """Loads all models; those that can't be loaded are in `health.load_failures`.

        Those whose servers are not ready are loaded once they are. Raises ConfigError if there is none, none can be
        loaded, or, with `strict`, one can't.
        """
        loaded, errors = [], dict[str, Exception]()
        folders = ModelFolders(settings.repository, settings.named_folders)
        for name in folders.find():
            try:
                loaded.append(folders.load(name))
            except Exception as error:
                if settings.strict:
                    raise
                errors[name] = error
        absent = [each for each in errors.values() if isinstance(each, BackendUnavailable)]
        application = cls(settings, loaded, absent, tracer)
        for name, failure in errors.items():
            application._set_failed(name, failure)
        application._check_any_left(errors.values())
        return application

    def _set_failed(self, name: str, error: Exception) -> None:
        """Goes on without a model that can't be served."""
        failure = explain_failure(name, error, self.folders.roots)
        if isinstance(error, BackendUnavailable):
            failure = failure.retried
            self._retries.add(name)
        elif not isinstance(error, ConfigError):
            log.error("model %s failed to load", name, exc_info=error)
        self.health.failed_to_load(name, failure)
        if (model := self.models.pop(name, None)) is not None:
            model.retire()
        self._add_model_metrics(name)

    def _check_any_left(self, errors: Iterable[Exception]) -> None:
        """Raises the error of the only model, or ConfigError with the reasons, if every model failed for good."""
        failures = self.health.load_failures
        if self.models or self._retries or not failures:
            return
        if len(failures) == 1:
            raise next(iter(errors))
        reasons = "; ".join(f"model {name}: {failure.reason}" for name, failure in failures.items())
        raise ConfigError(f"none of the {len(failures)} models can be served: {reasons}")

    def warm(self) -> None:
        """Measures every model, then admits requests, unless `closing` is set meanwhile.

        A model that can't be measured is in `health.load_failures` then. Raises ConfigError if none is left, or with
        `strict` if one can't.
        """
        errors = []
        for model in list(self.models.values()):
            try:
                pool = self.pools.of(model)
                warm_up(model, pool.costs, pool.size.slots, ladder=batch_ladder(model, pool))
            except Exception as error:
                if self.settings.strict:
                    raise
                self._set_failed(model.name, error)
                errors.append(error)
            if self.closing:
                return
        self._check_any_left(errors)
        self.pools.start()
        self._probe.start()
        self._retries.start()
        self._warmed = True

    @property
    def admitting(self) -> bool:
        """True if requests are admitted."""
        return self._warmed and not self.closing

    @property
    def ready(self) -> bool:
        """True if requests are admitted, and clients should send them to this server."""
        return self.admitting and not self.leaving

    def check_admitting(self) -> None:
        """Raises NotReady."""
        if not self.admitting:
            raise NotReady(NOT_READY)

    def model_names(self) -> list[str]:
        """Of the models in their folders, loaded or not, and of those that are not there any more."""
        return sorted(self.folders.names() | set(self.models) | set(self.health.load_failures))

    def load_model(self, name: str) -> Model:
        """Loads or reloads a model and returns it; a loaded version serves until the new one is warm.

        Raises UnknownModel, ConfigError, and Overloaded while another model is loaded; then nothing has changed, but if
        no version of the model is loaded, `health.load_failures` has why.
        """
        if name not in self.model_names():
            raise UnknownModel(f"there is no model {name[:64]!r} to load; there are {', '.join(self.model_names())}")
        with self._exclusive_loading():
            preparing = prepare(self.folders, name, self.pools)
            if name not in self.models and isinstance(failure := preparing.exception(), Exception):
                self._set_failed(name, failure)
            model, costs = preparing.result()
            self.pools.of(model).engine.reprice(name, costs)
            self._runners[name] = self._runner
            previous, self.models[name] = self.models.get(name), model
            if previous is not None:
                self.predictor.retire(previous)
            self.statistics.forget(model.key)
            self.health.loaded(name)
            self._add_model_metrics(name)
            return model

    @contextmanager
    def _exclusive_loading(self) -> Iterator[None]:
        if not self._loading.acquire(blocking=False):
            raise Overloaded("another model is being loaded; retry when that is done", 1.0)
        try:
            yield
        finally:
            self._loading.release()

    def unload_model(self, name: str) -> None:
        """Admits no more requests for the model; those admitted are answered.

        Of a model that failed to load, the failure is forgotten. Raises UnknownModel.
        """
        with self._exclusive_loading():
            if name in self.health.load_failures:
                self.health.loaded(name)
                return
            model = self.predictor.model(name)
            del self.models[name]
            self.predictor.retire(model)

    def leave(self) -> None:
        """Is not ready from now on, so that load balancers choose another server; still admits requests."""
        self.leaving = True

    def stop_admitting(self) -> None:
        """Admits no more requests."""
        self.closing = True

    def close(self) -> None:
        """Answers admitted requests, for at most `drain_seconds`, then stops."""
        self.stop_admitting()
        self._probe.close()
        self._retries.close()
        self.pools.drain(self.settings.drain_seconds)
        for model in list(self.models.values()):
            model.retire()
