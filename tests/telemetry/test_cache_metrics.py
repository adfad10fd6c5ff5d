"""Hits, misses and evictions in a registry."""

from prometheus_client import CollectorRegistry

from tta_server.telemetry.cache_metrics import CacheMetrics
from tta_server.telemetry.observer import CacheEvicted, CacheHit, CacheMiss, Expired

KEY = ("toy", "1")


def test_each_event_counts() -> None:
    registry = CollectorRegistry()
    metrics = CacheMetrics(registry)
    hits = [CacheHit(KEY, 0.1, is_shared=False)] * 2 + [CacheHit(KEY, 0.1, is_shared=True)]
    for event in (*hits, CacheMiss(KEY, 0.1), CacheEvicted(3), CacheEvicted(1), Expired("toy")):
        metrics.notify(event)
    read = registry.get_sample_value
    assert read("tta_cache_hits_total", {"model": "toy", "kind": "stored"}) == 2
    assert read("tta_cache_hits_total", {"model": "toy", "kind": "shared"}) == 1
    assert read("tta_cache_misses_total", {"model": "toy"}) == 1
    assert read("tta_cache_evictions_total") == 4
