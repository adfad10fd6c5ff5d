"""What the server counts, for Prometheus."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)


STAGES = ("decode", "prepare", "queue", "infer", "merge")
"""What an answer's time is divided into."""


@dataclass(frozen=True, slots=True)
class _OfModel:
    views: Histogram
    elapsed: Histogram
    stages: Mapping[str, Histogram]
    batch_size: Histogram
    batch_seconds: Histogram


class Metrics:
    """Its own registry, so that several applications may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Counter(
            "tta_answers",
            "Answers by model and stop reason",
            ["model", "stop_reason"],
            registry=self.registry,
        )
        self._errors = Counter("tta_errors", "Errors by code", ["model", "code"], registry=self.registry)
        self._elapsed = Histogram(
            "tta_answer_seconds",
            "From the whole request read to its answer made",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "tta_stage_seconds",
            "Time per stage of an answer",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._views = Histogram("tta_views", "Views per answer", ["model"], buckets=COUNTS, registry=self.registry)
        self._batch_size = Histogram(
            "tta_batch_size", "Views per batch", ["model"], buckets=COUNTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "tta_batch_seconds",
            "Time per batch",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._dropped = Counter(
            "tta_dropped_views", "Views whose output held NaN or infinity", ["model"], registry=self.registry
        )
        self._bound: dict[str, _OfModel] = {}
        self._live = Gauge("tta_jobs", "Images admitted and not yet answered", registry=self.registry)

    def answer(self, model: str, reason: str, views: int, seconds: float, stages_ms: Mapping[str, float]) -> None:
        self._answers.labels(model, reason).inc()
        bound = self._of(model)
        bound.views.observe(views)
        bound.elapsed.observe(seconds)
        for stage, milliseconds in stages_ms.items():
            bound.stages[stage].observe(milliseconds / 1e3)

    def error(self, model: str, code: str) -> None:
        self._errors.labels(model, code).inc()

    def dropped(self, model: str) -> None:
        self._dropped.labels(model).inc()

    def batch(self, model: str, views: int, seconds: float) -> None:
        bound = self._of(model)
        bound.batch_size.observe(views)
        bound.batch_seconds.observe(seconds)

    def _of(self, model: str) -> "_OfModel":
        """The histograms of one model, looked up once."""
        if model not in self._bound:
            self._bound[model] = _OfModel(
                views=self._views.labels(model),
                elapsed=self._elapsed.labels(model),
                stages={stage: self._stages.labels(model, stage) for stage in STAGES},
                batch_size=self._batch_size.labels(model),
                batch_seconds=self._batch_seconds.labels(model),
            )
        return self._bound[model]

    def admitted(self) -> None:
        self._live.inc()

    def settled(self) -> None:
        self._live.dec()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
