"""The cache is bounded in bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.examples import times
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


class Contents(RuleBasedStateMachine):
    """Puts and finds against a plain list of what should be stored, the least recently used first."""

    CAPACITY = 30

    def __init__(self):
        super().__init__()
        self.cache = ByteCache(self.CAPACITY)
        self.stored: list[tuple[int, int]] = []

    def size(self):
        return sum(size for _, size in self.stored)

    @rule(key=st.integers(0, 5), size=st.integers(1, 35))
    def put(self, key, size):
        evicted = self.cache.put(key, f"value of {key}", size)
        before = len(self.stored)
        if size <= self.CAPACITY and key not in dict(self.stored):
            self.stored.append((key, size))
            before += 1
            while self.size() > self.CAPACITY:
                self.stored.pop(0)
        assert evicted == before - len(self.stored)

    @rule(key=st.integers(0, 5))
    def find(self, key):
        found = self.cache.find(key)
        assert found == (f"value of {key}" if key in dict(self.stored) else None)
        self.stored.sort(key=lambda entry: entry[0] == key)

    @rule(keys=st.sets(st.integers(0, 5)))
    def discard(self, keys):
        self.cache.discard(keys.__contains__)
        self.stored = [entry for entry in self.stored if entry[0] not in keys]

    @invariant()
    def holds_what_it_should_within_its_capacity(self):
        assert self.cache.nbytes == self.size() <= self.CAPACITY
        assert [key for key in range(6) if key in self.cache] == sorted(dict(self.stored))


TestContents = Contents.TestCase
TestContents.settings = settings(max_examples=times(200), stateful_step_count=30)
