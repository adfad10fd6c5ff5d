"""The response cache's metrics, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter

from tta_server.telemetry.observer import CacheEvicted, CacheHit, CacheMiss, Event


class CacheMetrics:
    """An observer that counts hits, misses and evictions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._hits = Counter(
            "tta_cache_hits",
            "Images answered from the cache (stored), or by the run of an equal request (shared)",
            ("model", "kind"),
            registry=registry,
        )
        self._misses = Counter(
            "tta_cache_misses", "Images that were looked up in the cache and had to run", ("model",), registry=registry
        )
        self._evictions = Counter("tta_cache_evictions", "Answers dropped to store others", registry=registry)

    def notify(self, event: Event) -> None:
        match event:
            case CacheHit((name, _), _, is_shared):
                self._hits.labels(name, "shared" if is_shared else "stored").inc()
            case CacheMiss((name, _)):
                self._misses.labels(name).inc()
            case CacheEvicted(answers):
                self._evictions.inc(answers)
