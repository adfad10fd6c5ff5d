"""What is retired is closed with its last use, once."""

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


def test_what_is_not_used_is_closed_when_it_is_retired(lifetime, closed):
    lifetime.retire()
    assert len(closed) == 1
    lifetime.retire()
    assert len(closed) == 1
    assert not lifetime.begin()


def test_it_is_closed_with_its_last_use(lifetime, closed):
    assert lifetime.begin()
    assert lifetime.begin()
    lifetime.retire()
    lifetime.end()
    assert not closed
    assert lifetime.begin()  # it is open still
    lifetime.end()
    lifetime.end()
    assert len(closed) == 1


def test_uses_end_before_it_is_retired(lifetime, closed):
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


def test_of_many_threads_one_closes_it(lifetime, closed):
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
