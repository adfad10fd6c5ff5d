"""A retired resource is closed once, after its last use."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.serving import PATIENCE
from tta_server.repository.lifetime import Lifetime


@pytest.fixture
def closed():
    return []


@pytest.fixture
def lifetime(closed):
    return Lifetime(lambda: closed.append(threading.current_thread().name))


def test_an_unused_resource_is_closed_when_it_is_retired(lifetime, closed):
    lifetime.retire()
    assert len(closed) == 1
    lifetime.retire()
    assert len(closed) == 1
    assert not lifetime.begin()


def test_a_retired_resource_is_closed_after_its_last_use(lifetime, closed):
    assert lifetime.begin()
    assert lifetime.begin()
    lifetime.retire()
    lifetime.end()
    assert not closed
    assert lifetime.begin()  # still open
    lifetime.end()
    lifetime.end()
    assert len(closed) == 1


def test_the_end_of_a_use_does_not_close_before_retirement(lifetime, closed):
    assert lifetime.begin()
    lifetime.end()
    assert not closed
    assert lifetime.begin()
    lifetime.end()
    lifetime.retire()
    assert len(closed) == 1


def test_an_error_on_closing_is_logged(caplog):
    lifetime = Lifetime(lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        lifetime.retire()
    assert "could not be closed" in caplog.text


def test_one_of_many_threads_closes_the_resource(lifetime, closed):
    number, together = 8, threading.Barrier(9)

    def use():
        assert lifetime.begin()
        together.wait(PATIENCE)
        lifetime.end()

    with ThreadPoolExecutor(number) as threads:
        uses = [threads.submit(use) for _ in range(number)]
        together.wait(PATIENCE)
        lifetime.retire()
        for done in uses:
            done.result(PATIENCE)
    assert len(closed) == 1
