"""The server's metrics, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from tta_server.errors import Code
from tta_server.telemetry.observer import (
    AnswerSent,
    ClientLeft,
    DeclarationDoubted,
    ErrorSent,
    Event,
    Expired,
    ImageAnswered,
    Refused,
    StepFailed,
    StepFinished,
    ViewDropped,
)
from tta_server.telemetry.timings import STAGES

TEXT = "text/plain; version=0.0.4"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class _ModelMetrics:
    views: Histogram
    wanted: Counter
    elapsed: Histogram
    stages: Mapping[str, Histogram]
    batch_size: Histogram
    batch_seconds: Histogram
    cost_ratio: Histogram


M = TypeVar("M", Counter, Histogram)

REASONS = ("time", "jobs", "bytes", "api", "budget")
KINDS = ("failed", "ended")
FAILURES = (Code.BACKEND_FAILED, Code.INTERNAL, Code.NOT_READY)
"""Errors that count against an objective; refusals and expired images are counted by themselves."""


class Metrics:
    """An observer that counts events in a registry of its own, so that one process may run several applications."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = self._new(Counter, "tta_answers", "Answers by stop reason", "model", "stop_reason")
        self._errors = self._new(Counter, "tta_errors", "Errors by code", "model", "code")
        self._refusals = self._new(
            Counter, "tta_refusals", "Images refused for lack of time, jobs, bytes, api or budget", "model", "reason"
        )
        self._late = self._new(Counter, "tta_late_answers", "Answers made after their budget", "model")
        self._expired = self._new(Counter, "tta_expired", "Admitted images that were not answered in time", "model")
        self._left = self._new(Counter, "tta_left", "Clients that left before their answer", "model")
        self._faults = self._new(
            Counter, "tta_faults", "Batches that failed, or took too long and were aborted", "model", "kind"
        )
        self._risks = self._new(
            Counter, "tta_risks", "Optional batches that could make an arriving request late", "model"
        )
        self._dropped = self._new(
            Counter, "tta_dropped_views", "Views whose output held NaN or infinity or could not be merged", "model"
        )
        self._doubts = self._new(
            Counter, "tta_declaration_doubts", "Views whose output is not what tta.yaml states", "model", "check"
        )
        self._elapsed = self._new(
            Histogram, "tta_answer_seconds", "Seconds from a request's arrival to its answer", "model", buckets=SECONDS
        )
        self._stages = self._new(
            Histogram, "tta_stage_seconds", "Seconds per stage of an answer", "model", "stage", buckets=SECONDS
        )
        self._views = self._new(Histogram, "tta_views", "Views per answer", "model", buckets=COUNTS)
        self._wanted = self._new(
            Counter, "tta_wanted_views", "Views of answers, or those planned where lack of time ended them", "model"
        )
        self._batch_size = self._new(Histogram, "tta_batch_size", "Views per batch", "model", buckets=COUNTS)
        self._batch_seconds = self._new(Histogram, "tta_batch_seconds", "Seconds per batch", "model", buckets=SECONDS)
        self._cost_ratio = self._new(
            Histogram, "tta_cost_ratio", "Seconds of a batch over their estimate", "model", buckets=RATIOS
        )
        self._bound: dict[str, _ModelMetrics] = {}
        self._gauges: dict[str, Gauge] = {}
        self._by_model = {Expired: self._expired, ClientLeft: self._left, ViewDropped: self._dropped}

    def _new(self, kind: type[M], name: str, description: str, *labels: str, **options: Any) -> M:
        return kind(name, description, labels, registry=self.registry, **options)

    def add_model(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Adds the gauge of the model, and its counters as 0: `rate` and `increase` miss a counter's first value."""
        self.gauge(
            "tta_model_ready", "1 while the model works, 0 when it is unhealthy or not loaded", is_ready, model=name
        )
        self._of(name)
        self._refusals.labels("", "api")  # before the model of a request is known
        for counter in (self._late, self._expired, self._left, self._risks, self._dropped):
            counter.labels(name)
        for counter, values in ((self._refusals, REASONS), (self._faults, KINDS), (self._errors, FAILURES)):
            for value in values:
                counter.labels(name, value)

    def gauge(self, name: str, description: str, read: Callable[[], float], **labels: str) -> None:
        """Adds a gauge whose value `read` returns at each scrape."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(name, description, list(labels), registry=self.registry)
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def counter(self, name: str, description: str, read: Callable[[], int]) -> None:
        """Adds a counter whose value `read` returns at each scrape; its name gets the ending `_total`."""
        self.registry.register(_ReadCounter(name, description, read))

    def notify(self, event: Event) -> None:
        match event:
            case StepFinished():
                self._step_finished(event)
            case ImageAnswered():
                self._image_answered(event)
            case AnswerSent():
                self._late.labels(event.model).inc(event.elapsed_ms > event.budget_ms)
            case Refused(model, reason):
                self._refusals.labels(model, reason).inc()
            case Expired() | ClientLeft() | ViewDropped():
                self._by_model[type(event)].labels(event.model).inc()
            case StepFailed(model, kind):
                self._faults.labels(model, kind).inc()
            case ErrorSent(model=str(model), code=code):
                self._errors.labels(model, code).inc()
            case DeclarationDoubted(model, check):
                self._doubts.labels(model, check).inc()

    def _image_answered(self, event: ImageAnswered) -> None:
        self._answers.labels(event.model, event.reason).inc()
        bound = self._of(event.model)
        exemplar = {"trace_id": event.trace.trace_id} if event.trace and event.trace.is_recorded else None
        if event.stages_ms:  # a shared answer took no views
            bound.views.observe(event.views)
            bound.wanted.inc(event.wanted)
        bound.elapsed.observe(event.seconds, exemplar)
        for stage, milliseconds in event.stages_ms.items():
            bound.stages[stage].observe(milliseconds / 1e3, exemplar)

    def _step_finished(self, event: StepFinished) -> None:
        bound = self._of(event.model)
        bound.batch_size.observe(event.views)
        bound.batch_seconds.observe(event.seconds)
        bound.cost_ratio.observe(event.seconds / event.estimate)
        if event.is_risky:
            self._risks.labels(event.model).inc()

    def _of(self, model: str) -> "_ModelMetrics":
        """The histograms of one model, looked up once."""
        if model not in self._bound:
            self._bound[model] = _ModelMetrics(
                views=self._views.labels(model),
                wanted=self._wanted.labels(model),
                elapsed=self._elapsed.labels(model),
                stages={stage: self._stages.labels(model, stage) for stage in STAGES},
                batch_size=self._batch_size.labels(model),
                batch_seconds=self._batch_seconds.labels(model),
                cost_ratio=self._cost_ratio.labels(model),
            )
        return self._bound[model]

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their media type: OpenMetrics, with exemplars, if the Accept header names it."""
        if "application/openmetrics-text" not in accept:
            return self.text(), TEXT
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class _ReadCounter(Collector):
    """A counter that is read at each scrape."""

    def __init__(self, name: str, description: str, read: Callable[[], int]) -> None:
        self._name, self._description, self._read = name, description, read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._description, value=self._read())
