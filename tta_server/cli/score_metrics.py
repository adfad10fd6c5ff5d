"""Metrics of a run of `tta-server score`, for Prometheus."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from tta_server.cli.console import note
from tta_server.cli.score_progress import ScoreProgress
from tta_server.errors import ConfigError
from tta_server.scoring.output import ShardEntry
from tta_server.scoring.shards import Row


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where metrics are served; port 0 takes a free one."""

    host: str
    port: int


def endpoint(host: str, port: int | None) -> Endpoint | None:
    return None if port is None else Endpoint(host, port)


class ScoreMetrics:
    """What a run has done, in a registry of its own; images and views of earlier runs count too.

    `entries` are the shards that are written, and may grow.
    """

    def __init__(self, progress: ScoreProgress, entries: Mapping[int, ShardEntry]) -> None:
        self.registry = registry = CollectorRegistry()
        images = Counter("tta_score_images", "Images that were scored or failed", ["status"], registry=registry)
        self._images = {status: images.labels(status) for status in ("ok", "failed")}
        self._views = Counter("tta_score_views", "Views that were merged", registry=registry)
        self._stages = Counter(
            "tta_score_stage_seconds", "Seconds by stage, of all threads and processes", ["stage"], registry=registry
        )
        for entry in entries.values():
            self._add(entry.images, entry.views, entry.failed)
        gauges: Mapping[str, tuple[str, Callable[[], float]]] = {
            "tta_score_input_images": ("Images of the input", lambda: progress.total),
            "tta_score_written_shards": ("Shards that are written", lambda: len(entries)),
            "tta_score_images_per_second": ("Mean rate since the start of this process", lambda: progress.rate),
            "tta_score_expected_end_timestamp_seconds": (
                "When the run will have ended at this rate", lambda: _expected_end(progress),
            ),
        }  # fmt: skip
        for name, (description, read) in gauges.items():
            Gauge(name, description, registry=registry).set_function(read)
        progress.on_images(self._add)
        progress.on_image(self._add_stages)

    def _add(self, images: int, views: int, failed: int) -> None:
        self._images["ok"].inc(images - failed)
        self._images["failed"].inc(failed)
        self._views.inc(views)

    def _add_stages(self, row: Row) -> None:
        for stage, milliseconds in row.stages_ms.items():
            self._stages.labels(stage).inc(milliseconds / 1e3)


def _expected_end(progress: ScoreProgress) -> float:
    """In seconds of the wall clock; NaN before the first image."""
    left = progress.seconds_left
    return nan if left is None else time.time() + left


@contextmanager
def serve_metrics(metrics: ScoreMetrics, endpoint: Endpoint) -> Iterator[None]:
    """Serve them while the block runs. Raises ConfigError if the address can't be taken."""
    try:
        server, thread = start_http_server(endpoint.port, endpoint.host, metrics.registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"can't serve metrics on {endpoint.host}:{endpoint.port}: {getattr(error, 'strerror', None) or error}; "
            "choose another with --metrics-host and --metrics-port"
        ) from None
    try:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        note(f"metrics at http://{host}:{server.server_port}/metrics")
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
