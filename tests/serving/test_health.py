"""Which models are probed, and which are unhealthy: those with several failed batches and a failed probe."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.repository.failure import LoadFailure
from tta_server.serving.health import FAILURES, Health

pytestmark = pytest.mark.timing

PATIENCE = 20
MODELS = ("a", "b")
events = st.lists(
    st.tuples(st.sampled_from(["worked", "failed", "mark_unhealthy"]), st.sampled_from(MODELS)), max_size=40
)


def suspects(health: Health) -> list[str]:
    """Those that there are now; the sentinel is one for certain, so that the call does not wait."""
    for _ in range(FAILURES):
        health.failed("sentinel")
    return sorted(set(health.wait_for_work()[0]) - {"sentinel"})


def happened(history: list[tuple[str, str]]) -> Health:
    health = Health()
    for event, model in history:
        getattr(health, event)(model)
    return health


@given(events)
def test_a_model_is_unhealthy_from_a_failed_probe_until_a_batch_works(history: list[tuple[str, str]]) -> None:
    health = happened(history)
    for model in MODELS:
        own = [event for event, name in history if name == model]
        since = own[len(own) - own[::-1].index("worked") :] if "worked" in own else own
        failed_first = "failed" in since and "mark_unhealthy" in since[since.index("failed") :]
        assert (model in health.unhealthy) == failed_first


@given(st.lists(st.booleans(), min_size=FAILURES, max_size=20))
def test_one_batch_that_works_clears_a_model_whatever_was_before(worked: list[bool]) -> None:
    health = happened([("worked" if good else "failed", "a") for good in worked] + [("mark_unhealthy", "a")])
    health.worked("a")
    assert not health.unhealthy
    health.mark_unhealthy("a")  # the probe's failure comes after that and does not count
    assert not health.unhealthy


def test_suspects_are_those_that_failed_so_often_in_a_row() -> None:
    fails = [("failed", "a")]
    assert suspects(happened(fails * (FAILURES - 1))) == []
    assert suspects(happened(fails * FAILURES)) == ["a"]
    assert suspects(happened(fails * 10)) == ["a"]
    assert suspects(happened(fails * FAILURES + [("worked", "a")])) == []
    assert suspects(happened(fails * (FAILURES - 1) + [("worked", "a")] + fails)) == []
    assert suspects(happened([("failed", "a"), ("worked", "b")] * FAILURES)) == ["a"]
    assert suspects(happened(fails * FAILURES + [("failed", "b")] * FAILURES)) == ["a", "b"]


def test_a_model_whose_server_is_gone_is_a_suspect_at_once() -> None:
    assert suspects(happened([("suspect", "a")])) == ["a"]
    assert suspects(happened([("suspect", "a"), ("worked", "a")])) == []
    assert suspects(happened([("suspect", "a"), ("worked", "a"), ("failed", "a")])) == []


def test_unhealthy_models_stay_suspects_so_that_they_are_probed_again() -> None:
    assert suspects(happened([("failed", "a")] * FAILURES + [("mark_unhealthy", "a")])) == ["a"]


FAILURE = LoadFailure("/models/a/tta.yaml: is not valid YAML", "a/tta.yaml: is not valid YAML")


def test_problems_are_sentences_for_clients_sorted_by_name() -> None:
    health = happened([("failed", "b"), ("mark_unhealthy", "b")])
    health.failed_to_load("a", FAILURE)
    assert list(health.problems()) == ["a", "b"]
    assert health.problems()["a"] == "model a failed to load: a/tta.yaml: is not valid YAML"
    assert health.problems()["b"].startswith("model b is unhealthy")
    health.loaded("a")
    assert list(health.problems()) == ["b"]
    health.loaded("b")
    assert health.problems() == {}


def test_a_model_that_failed_to_load_is_not_probed() -> None:
    health = happened([("failed", "a")] * FAILURES + [("mark_unhealthy", "a")])
    health.failed_to_load("a", FAILURE)
    assert suspects(health) == []
    assert not health.unhealthy


def waiting(health: Health, act: Callable[[], None]) -> list[str]:
    """What a thread that waits already gets after `act`."""
    found: list[list[str]] = []
    waiter = threading.Thread(target=lambda: found.append(health.wait_for_work()[0]))
    waiter.start()
    act()
    waiter.join(PATIENCE)
    (heard,) = found
    return heard


def test_a_waiting_thread_is_notified_of_a_suspect_and_of_the_end() -> None:
    health = Health()

    def fail() -> None:
        for _ in range(FAILURES):
            health.failed("a")

    assert waiting(health, fail) == ["a"]
    other = Health()
    assert waiting(other, other.close) == []


def test_the_first_fatal_reason_stands() -> None:
    health = Health()
    assert not health.fatal
    health.mark_fatal("slot 1 is stuck")
    health.mark_fatal("slot 0 is stuck")
    assert health.fatal == "slot 1 is stuck"
