"""What the server counts, for Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)


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
        self._live = Gauge("tta_jobs", "Images admitted and not yet answered", registry=self.registry)

    def answer(self, model: str, reason: str, views: int, seconds: float, stages_ms: Mapping[str, float]) -> None:
        self._answers.labels(model, reason).inc()
        self._views.labels(model).observe(views)
        self._elapsed.labels(model).observe(seconds)
        for stage, milliseconds in stages_ms.items():
            self._stages.labels(model, stage).observe(milliseconds / 1e3)

    def error(self, model: str, code: str) -> None:
        self._errors.labels(model, code).inc()

    def batch(self, model: str, views: int, seconds: float) -> None:
        self._batch_size.labels(model).observe(views)
        self._batch_seconds.labels(model).observe(seconds)

    def admitted(self) -> None:
        self._live.inc()

    def settled(self) -> None:
        self._live.dec()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
