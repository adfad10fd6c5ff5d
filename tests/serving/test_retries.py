"""A model whose server is not ready is loaded again until it is, or until the model is unloaded."""

import threading

import pytest

from tests.support.serving import PATIENCE, until
from tta_server.errors import BackendUnavailable, ConfigError, Overloaded, TTAError
from tta_server.serving import retries
from tta_server.serving.retries import LoadRetries


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "INTERVAL_SECONDS", 0.01)


def test_it_is_tried_until_it_is_loaded_and_others_meanwhile() -> None:
    tries: list[str] = []
    errors: dict[str, list[TTAError]] = {
        "late": [BackendUnavailable("not yet"), Overloaded("another one", 1.0)],
        "wrong": [ConfigError("never")],
    }

    def load(name: str) -> None:
        tries.append(name)
        if left := errors.get(name):
            raise left.pop(0)

    waiting = LoadRetries(load, lambda name: True)
    waiting.start()
    for name in ("late", "wrong"):
        waiting.add(name)
    until(lambda: not len(waiting))
    waiting.close()
    assert sorted(tries) == ["late", "late", "late", "wrong"]


def test_a_model_that_was_loaded_or_forgotten_is_not_tried() -> None:
    waiting = LoadRetries(lambda name: pytest.fail("it was tried"), lambda name: False)
    waiting.add("gone")
    waiting.start()
    until(lambda: not len(waiting))
    waiting.close()


def test_closing_ends_the_thread_without_waiting_for_a_load() -> None:
    entered, leave = threading.Event(), threading.Event()

    def load(name: str) -> None:
        entered.set()
        leave.wait(PATIENCE)

    waiting = LoadRetries(load, lambda name: True)
    waiting.start()
    waiting.add("slow")
    assert entered.wait(PATIENCE)
    waiting.close()
    leave.set()
    until(lambda: all(thread.name != "retries" for thread in threading.enumerate()))
