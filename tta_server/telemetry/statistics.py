"""Each model's counts and times since it was loaded, as in the Open Inference Protocol's statistics extension."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tta_server.telemetry.observer import CacheHit, CacheMiss, Event, ModelKey, RequestAnswered, RequestFailed, ViewsRan


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in total, in ns."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)

    def to_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


REQUEST_STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
BATCH_STAGES = ("compute_input", "compute_infer", "compute_output")
CACHE = ("cache_hit", "cache_miss")
"""Counted by image; without `--cache-mb` these stay 0."""


def _durations(*names: str) -> dict[str, Duration]:
    return {name: Duration() for name in names}


@dataclass(slots=True)
class _ModelStatistics:
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    stages: dict[str, Duration] = field(default_factory=lambda: _durations(*REQUEST_STAGES, *CACHE))
    batches: dict[int, dict[str, Duration]] = field(default_factory=dict)


class Statistics:
    """An observer that counts, by model, requests, views (`inference_count`) and batches (`execution_count`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], _ModelStatistics] = {}

    def notify(self, event: Event) -> None:
        match event:
            case ViewsRan():
                self._views_ran(event)
            case RequestAnswered():
                self._request_answered(event)
            case RequestFailed(model, seconds):
                self._add(model, "fail", seconds)
            case CacheHit(model, seconds):
                self._add(model, "cache_hit", seconds)
            case CacheMiss(model, seconds):
                self._add(model, "cache_miss", seconds)

    def _add(self, model: ModelKey, stage: str, seconds: float) -> None:
        with self._lock:
            self._of(model).stages[stage].add(seconds)

    def _views_ran(self, event: ViewsRan) -> None:
        views = len(event.images)
        with self._lock:
            of = self._of(event.model)
            of.inference_count += views
            of.execution_count += 1
            of.last_inference = time.time_ns() // 1_000_000
            if (stages := of.batches.get(views)) is None:
                stages = of.batches[views] = _durations(*BATCH_STAGES)
            stages["compute_input"].add(event.prepare)
            stages["compute_infer"].add(event.infer)
            stages["compute_output"].add(event.merge)

    def _request_answered(self, event: RequestAnswered) -> None:
        stages_ms = event.stages_ms
        if not stages_ms:
            self._add(event.model, "success", event.seconds)
            return
        spent = {
            "success": event.seconds,
            "queue": stages_ms["queue"] / 1e3,
            "compute_input": (stages_ms["decode"] + stages_ms["prepare"]) / 1e3,
            "compute_infer": stages_ms["infer"] / 1e3,
            "compute_output": stages_ms["merge"] / 1e3,
        }
        with self._lock:
            stages = self._of(event.model).stages
            for name, value in spent.items():
                stages[name].add(value)

    def forget(self, model: tuple[str, str]) -> None:
        """Resets a model's counts, for it was loaded again."""
        with self._lock:
            self._models.pop(model, None)

    def of(self, model: tuple[str, str]) -> dict[str, Any]:
        """An entry of `model_stats`: durations in ns, `last_inference` in ms since the epoch."""
        with self._lock:
            of = self._of(model)
            return {
                "name": model[0],
                "version": model[1],
                "last_inference": of.last_inference,
                "inference_count": of.inference_count,
                "execution_count": of.execution_count,
                "inference_stats": {name: duration.to_dict() for name, duration in of.stages.items()},
                "batch_stats": [
                    {"batch_size": size, **{name: duration.to_dict() for name, duration in stages.items()}}
                    for size, stages in sorted(of.batches.items())
                ],
            }

    def _of(self, model: tuple[str, str]) -> _ModelStatistics:
        if (found := self._models.get(model)) is None:
            found = self._models[model] = _ModelStatistics()
        return found
