"""The cache is bounded in bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.serving import PATIENCE
from tta_server.repository.cache import ByteCache


def put(cache, key, size=10):
    return cache.get(key, lambda: [key], lambda _: size)


def test_a_value_is_made_once():
    cache = ByteCache(100)
    first = put(cache, "a")
    assert put(cache, "a") is first
    assert (len(cache), cache.nbytes) == (1, 10)


def test_the_least_recently_used_go_first():
    cache = ByteCache(30)
    for key in "abc":
        put(cache, key)
    put(cache, "a")
    put(cache, "d", 20)
    assert [key for key in "abcd" if key in cache] == ["a", "d"]
    assert cache.nbytes == 30


def test_a_value_over_the_capacity_is_not_stored():
    cache = ByteCache(30)
    put(cache, "a")
    assert put(cache, "b", 31) == ["b"]
    assert [key for key in "ab" if key in cache] == ["a"]
    assert cache.nbytes == 10


def test_a_failed_value_is_not_stored():
    cache = ByteCache(30)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0, lambda _: 1)
    assert len(cache) == 0
    assert put(cache, "a") == ["a"]


def test_a_closed_cache_stores_nothing():
    cache = ByteCache(30)
    put(cache, "a")
    cache.close()
    assert (len(cache), cache.nbytes) == (0, 0)
    assert put(cache, "a") == ["a"]
    assert (len(cache), cache.nbytes) == (0, 0)


def test_concurrent_callers_get_the_first_value():
    cache, both = ByteCache(100), threading.Barrier(2)

    def make():
        both.wait(PATIENCE)
        return []

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: cache.get("a", make, lambda _: 10), range(2)))
    assert found[0] is found[1]
    assert cache.nbytes == 10
